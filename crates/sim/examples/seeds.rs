//! Runs seeds without building the server: `cargo run --profile sim -p atoll-sim --example seeds --
//! 0..100 [nodes=3] [script=FILE] [plant=ack-before-sync] [lines=200] [faults=crash,pause]`.

use atoll_sim::{FaultKind, Options, Plant, Script, run};

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut seeds = 0..20;
    let mut options = Options::new(0);
    let mut stop = true;
    for arg in std::env::args().skip(1) {
        let default = if arg == "go" { ("go", "") } else { ("seeds", arg.as_str()) };
        let (name, value) = arg.split_once("=").unwrap_or(default);
        match name {
            "seeds" => {
                let (from, to) = value.split_once("..").unwrap_or((value, ""));
                let from = from.parse().expect("seeds are numbers");
                seeds = from..to.parse().unwrap_or(from + 1);
            }
            "nodes" => options.nodes = value.parse().ok(),
            "lines" => options.lines_max = value.parse().expect("a number of lines"),
            "steps" => options.steps_max = value.parse().expect("a number of events"),
            "plant" => options.plant = Some(Plant::from_name(value).expect("a known bug")),
            "script" => {
                let text = std::fs::read_to_string(value).expect("a script can be read");
                options.script = Some(Script::read(&text).expect("a script").into());
            }
            "go" => stop = false,
            "faults" => {
                let kinds = value.split(',').filter(|name| !name.is_empty());
                options.faults =
                    kinds.map(|name| FaultKind::from_name(name).expect("a known fault")).collect();
            }
            other => panic!("unknown argument {other}"),
        }
    }
    let (mut failed, mut simulated, mut events) = (0, 0.0, 0);
    let mut marks = std::collections::BTreeMap::new();
    for seed in seeds.clone() {
        options.seed = seed;
        let outcome = run(&options);
        simulated += outcome.simulated.as_secs_f64();
        events += outcome.events;
        for (mark, n) in &outcome.marks {
            *marks.entry(*mark).or_insert(0) += n;
        }
        for line in &outcome.lines {
            println!("{line}");
        }
        let (trace, time, counts) = (outcome.trace, outcome.simulated, outcome.counts);
        println!("{outcome} trace {trace:016x} {time:?} {counts:?}");
        if !outcome.is_ok() {
            failed += 1;
            if stop {
                break;
            }
        }
    }
    println!("{failed} failed, {simulated:.0} s simulated, {events} events, marks {marks:?}");
    std::process::exit(i32::from(failed > 0));
}
