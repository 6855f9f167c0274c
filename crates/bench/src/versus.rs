//! etcd and Atoll side by side over etcd's API: each is measured in turn, in one run, by the same
//! client, at the sizes that its users ask about; then Atoll through its own client library.

use std::path::{Path, PathBuf};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};

use crate::PlanArgs;
use crate::atoll::{Atoll, AtollEtcd};
use crate::etcd::Etcd;
use crate::load::Operation;
use crate::plan;
use crate::report::{CellReport, Report};

/// What is measured, with how many clients.
const CELLS: [(Operation, usize); 7] = [
    (Operation::Put, 256),
    (Operation::Get, 256),
    (Operation::Range, 256),
    (Operation::Cas, 256),
    (Operation::Watch, 1000),
    (Operation::WatchShared, 1000),
    (Operation::Lock, 64),
];

/// The reports of the peers, of Atoll over etcd's API, and of Atoll itself.
pub(crate) async fn measure(
    peers: &[PathBuf],
    atoll: Option<&Path>,
    args: &PlanArgs,
) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for peer in peers {
        reports.push(plan::measure(&mut Etcd::new(peer)?, &CELLS, args).await?);
    }
    reports.push(plan::measure(&mut AtollEtcd::new(atoll)?, &CELLS, args).await?);
    reports.push(plan::measure(&mut Atoll::new(atoll)?, &CELLS, args).await?);
    Ok(reports)
}

/// One row per operation and system; the last columns are ratios to the first one's row.
pub(crate) fn table(reports: &[Report]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "operation",
        "clients",
        "system",
        "per second",
        "p50 ms",
        "p99 ms",
        "server CPU us/op",
        "others, cores",
        "errors",
        "times the first's rate",
        "times less CPU",
    ]);
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let of = |report: &Report, operation, clients| -> Option<usize> {
        let is_it = |cell: &CellReport| (cell.operation, cell.clients) == (operation, clients);
        report.cells.iter().position(is_it)
    };
    for (operation, clients) in CELLS {
        let first = reports.first().and_then(|r| Some(&r.cells[of(r, operation, clients)?]));
        for report in reports {
            let Some(cell) = of(report, operation, clients).map(|at| &report.cells[at]) else {
                continue;
            };
            let times = |ours: f64, theirs: Option<f64>| match theirs {
                Some(theirs) if theirs > 0.0 && ours > 0.0 => format!("{:.2}", ours / theirs),
                _ => String::new(),
            };
            table.add_row([
                operation.to_string(),
                clients.to_string(),
                report.target.clone(),
                format!("{:.0}", cell.per_second),
                format!("{:.2}", cell.p50_us as f64 / 1e3),
                format!("{:.2}", cell.p99_us as f64 / 1e3),
                format!("{:.1}", cell.server_cpu_us),
                format!("{:.2}", cell.other_cores),
                cell.errors.to_string(),
                times(cell.per_second, first.map(|c| c.per_second)),
                times(first.map_or(0.0, |c| c.server_cpu_us), Some(cell.server_cpu_us)),
            ]);
        }
    }
    let mut text = format!("{table}\n");
    for report in reports {
        let sizes = |bytes: &[u64]| -> Vec<u64> { bytes.iter().map(|b| b >> 20).collect() };
        let (filled, end) = (sizes(&report.memory.filled), sizes(&report.memory.end));
        let name = &report.target;
        text += &format!("{name}: RSS MiB of each server: filled {filled:?}, at the end {end:?}\n");
        for cell in &report.cells {
            if let Some(error) = &cell.first_error {
                text += &format!("{name}: {}: first error: {error}\n", cell.operation);
            }
        }
    }
    text
}
