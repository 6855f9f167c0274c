//! What was measured, as a table for people and as JSON for programs.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::load::Operation;
use crate::target::Route;

/// Everything that one run measured.
#[derive(Serialize)]
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
#[derive(Serialize, Default)]
pub(crate) struct Memory {
    /// After filling.
    pub(crate) filled: Vec<u64>,
    /// After the restart, before any load.
    pub(crate) restarted: Vec<u64>,
    /// At the end.
    pub(crate) end: Vec<u64>,
}

/// One operation at one number of clients.
#[derive(Serialize)]
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
    /// Cores that other programs kept busy meanwhile. Above a tenth, throughput and latencies say
    /// more about the machine than about what was measured.
    pub(crate) other_cores: f64,
    /// Resident bytes of the largest server at the cell's end.
    pub(crate) memory_bytes: u64,
}

impl Report {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
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
                format!("{:?}", cell.operation).to_lowercase(),
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
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}\n{table}\n", self.head())
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
}

fn mebibytes(bytes: u64) -> String {
    (bytes >> 20).to_string()
}
