//! What was measured, as a table for people and as JSON for programs.

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::load::Operation;
use crate::target::Route;

/// Everything that one run measured.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    /// Name and version of what was measured.
    pub(crate) target: String,
    /// Where the connections led.
    pub(crate) route: Route,
    /// Connections that the clients shared.
    pub(crate) connections: usize,
    /// Keys filled in before.
    pub(crate) keys: u64,
    /// Bytes of a value.
    pub(crate) value_bytes: usize,
    /// Operations per second that were asked for; without it, as many as there could be.
    #[serde(default)]
    pub(crate) rate: Option<f64>,
    /// Cores of the machine.
    pub(crate) cores: usize,
    /// Seconds that filling took.
    pub(crate) fill_seconds: f64,
    /// Seconds from starting the stopped servers to their first answer.
    pub(crate) restart_seconds: f64,
    /// The measured cells.
    pub(crate) cells: Vec<CellReport>,
    /// Resident bytes of each server after filling, after the restart, at the end.
    pub(crate) memory: Memory,
    /// Bytes of all servers' files at the end.
    pub(crate) disk_bytes: u64,
}

/// Resident bytes, one number for each server.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Memory {
    /// After filling.
    pub(crate) filled: Vec<u64>,
    /// After the restart, before any load.
    pub(crate) restarted: Vec<u64>,
    /// At the end.
    pub(crate) end: Vec<u64>,
}

/// One operation at one number of clients.
#[derive(Serialize, Deserialize)]
pub(crate) struct CellReport {
    /// What the clients did.
    pub(crate) operation: Operation,
    /// How many there were.
    pub(crate) clients: usize,
    /// Operations that succeeded in the measured time.
    pub(crate) operations: u64,
    /// Operations that failed in it.
    pub(crate) errors: u64,
    /// The first failure's text.
    pub(crate) first_error: Option<String>,
    /// The measured time.
    pub(crate) seconds: f64,
    /// Operations per second.
    pub(crate) per_second: f64,
    /// Median latency, microseconds.
    pub(crate) p50_us: u64,
    /// Latency that 99 of 100 do not exceed, microseconds.
    pub(crate) p99_us: u64,
    /// CPU time of all servers per operation, microseconds.
    pub(crate) server_cpu_us: f64,
    /// CPU time of the load generator per operation, microseconds.
    pub(crate) load_cpu_us: f64,
    /// Cores that other programs kept busy meanwhile.
    pub(crate) other_cores: f64,
    /// Resident bytes of the largest server at the cell's end.
    pub(crate) memory_bytes: u64,
}

/// Cores busy elsewhere from which on throughput and latencies say more about the machine.
const OTHER_CORES_MAX: f64 = 0.1;

impl Report {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut table = table_with(&[
            "operation",
            "clients",
            "per second",
            "p50 us",
            "p99 us",
            "server CPU us/op",
            "load CPU us/op",
            "largest RSS MiB",
            "cores busy elsewhere",
            "errors",
        ]);
        for cell in &self.cells {
            table.add_row([
                cell.operation.to_string(),
                cell.clients.to_string(),
                format!("{:.0}", cell.per_second),
                cell.p50_us.to_string(),
                cell.p99_us.to_string(),
                format!("{:.1}", cell.server_cpu_us),
                format!("{:.1}", cell.load_cpu_us),
                mebibytes(cell.memory_bytes),
                format!("{:.2}", cell.other_cores),
                cell.errors.to_string(),
            ]);
        }
        format!("{}\n{table}\n{}", self.head(), self.warnings())
    }

    /// Two reports side by side; the last column says how much CPU time of `self` one of `other`
    /// is.
    pub(crate) fn comparison(&self, other: &Self) -> String {
        let mut table = table_with(&[
            "operation",
            "clients",
            &format!("{}: per second", self.target),
            "p99 us",
            "CPU us/op",
            &format!("{}: per second", other.target),
            "p99 us",
            "CPU us/op",
            "CPU ratio",
        ]);
        for cell in &self.cells {
            let is_same =
                |o: &&CellReport| (o.operation, o.clients) == (cell.operation, cell.clients);
            let Some(theirs) = other.cells.iter().find(is_same) else { continue };
            let mut row = vec![cell.operation.to_string(), cell.clients.to_string()];
            for cell in [cell, theirs] {
                row.push(format!("{:.0}", cell.per_second));
                row.push(cell.p99_us.to_string());
                row.push(format!("{:.1}", cell.server_cpu_us));
            }
            row.push(format!("{:.2}", theirs.server_cpu_us / cell.server_cpu_us));
            table.add_row(row);
        }
        format!(
            "{}\n{}\n{table}\n{}{}",
            self.head(),
            other.head(),
            self.warnings(),
            other.warnings()
        )
    }

    fn head(&self) -> String {
        let sizes =
            |bytes: &[u64]| bytes.iter().map(|b| mebibytes(*b)).collect::<Vec<_>>().join(" + ");
        format!(
            "{}: 3 servers on {} cores, {} keys of 16 B with {} B values, {} connections to {:?}\n\
             filled in {:.1} s, restarted in {:.1} s, files {} MiB\n\
             RSS MiB: filled {}; restarted {}; end {}\n",
            self.target,
            self.cores,
            self.keys,
            self.value_bytes,
            self.connections,
            self.route,
            self.fill_seconds,
            self.restart_seconds,
            mebibytes(self.disk_bytes),
            sizes(&self.memory.filled),
            sizes(&self.memory.restarted),
            sizes(&self.memory.end),
        )
    }

    /// What makes the figures worth less than they look.
    fn warnings(&self) -> String {
        let mut text = String::new();
        let others = self.cells.iter().map(|cell| cell.other_cores).fold(0.0, f64::max);
        if others > OTHER_CORES_MAX {
            text += &format!(
                "{}: other programs kept up to {others:.1} cores busy: trust the CPU time of cells \
                 with many operations, not throughput or latency\n",
                self.target
            );
        }
        for cell in &self.cells {
            if let Some(error) = &cell.first_error {
                let (operation, clients) = (cell.operation, cell.clients);
                text += &format!("{operation} with {clients} clients, first error: {error}\n");
            }
        }
        text
    }
}

fn table_with(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn mebibytes(bytes: u64) -> String {
    (bytes >> 20).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(target: &str, server_cpu_us: f64, other_cores: f64) -> Report {
        let cell = CellReport {
            operation: Operation::Get,
            clients: 16,
            operations: 5000,
            errors: 1,
            first_error: Some("gone".into()),
            seconds: 5.0,
            per_second: 1000.0,
            p50_us: 10,
            p99_us: 20,
            server_cpu_us,
            load_cpu_us: 1.0,
            other_cores,
            memory_bytes: 1 << 20,
        };
        Report {
            target: target.into(),
            route: Route::All,
            connections: 6,
            keys: 1,
            value_bytes: 1,
            rate: None,
            cores: 2,
            fill_seconds: 1.0,
            restart_seconds: 1.0,
            cells: vec![cell],
            memory: Memory::default(),
            disk_bytes: 0,
        }
    }

    #[test]
    fn a_report_survives_json_and_says_what_to_mind() {
        let json = serde_json::to_string(&report("etcd", 100.0, 0.5)).unwrap();
        let read: Report = serde_json::from_str(&json).unwrap();
        let table = read.table();
        assert!(table.contains("get with 16 clients, first error: gone"), "{table}");
        assert!(table.contains("0.5 cores busy"), "{table}");
        assert!(!report("etcd", 1.0, 0.05).table().contains("cores busy:"));
    }

    #[test]
    fn a_comparison_has_the_ratio_of_costs() {
        let text = report("etcd", 100.0, 0.0).comparison(&report("atoll", 25.0, 0.0));
        assert!(text.lines().any(|line| line.ends_with("0.25 |")), "{text}");
    }
}
