//! Server processes: started with their output in a file, stopped in good order, ended with us; and
//! what they cost, as the kernel counts it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Ticks per second of the CPU times in `/proc`; the kernel's interface fixes it at 100 on Linux.
const TICKS_PER_SECOND: u64 = 100;
/// How long a server may take to stop before it is killed.
const STOP_MAX: Duration = Duration::from_secs(20);
/// How often a stopping server is looked at.
const STOP_POLL: Duration = Duration::from_millis(20);

/// A running server. Killed when dropped.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts a program with its standard output and error going to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }

    /// Fails when the process has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("server {} ended with {status}", self.child.id()),
            None => Ok(()),
        }
    }

    /// Ends the process at once, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the process to stop.
    fn terminate(&self) -> Result<()> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().context("cannot start kill")?;
        Ok(())
    }

    /// CPU time of all its threads, user and system.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(&self.child.id().to_string())
    }

    /// Resident memory in bytes.
    pub(crate) fn memory_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{path} has no VmRSS"))? * 1024)
    }
}

/// Asks all to stop and waits for them. What takes too long is killed, and that is an error.
pub(crate) async fn stop_all(servers: Vec<Server>) -> Result<()> {
    servers.iter().try_for_each(Server::terminate)?;
    let deadline = Instant::now() + STOP_MAX;
    for mut server in servers {
        while server.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("server {} took over {} s to stop", server.child.id(), STOP_MAX.as_secs());
            }
            tokio::time::sleep(STOP_POLL).await;
        }
    }
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of this process.
pub(crate) fn own_cpu() -> Result<Duration> {
    cpu_of("self")
}

/// CPU time of the whole machine, all cores and whatever they ran.
pub(crate) fn machine_cpu() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let ticks = busy_ticks_in(&text).context("/proc/stat is not as expected")?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Of the first line, `cpu user nice system idle iowait irq softirq steal`, all but the idle two.
fn busy_ticks_in(stat: &str) -> Option<u64> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let numbers: Vec<u64> = numbers.map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(numbers.iter().sum::<u64>() - numbers.get(3)? - numbers.get(4)?)
}

fn cpu_of(process: &str) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = ticks_in(&text).with_context(|| format!("{path} is not as expected"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// utime and stime, fields 14 and 15. The name in field 2 may hold spaces, so count from its end.
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Ports of the loopback that are free now. They are all held until all are found.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<std::io::Result<_>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Bytes of the files below a folder.
pub(crate) fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { disk_bytes(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 10 0 0 0 31 11 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks_in(stat), Some(42));
        assert_eq!(ticks_in("7 (a"), None);
    }

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(busy_ticks_in("cpu  1 2 4 1000 2000 8 16 32 0 0\ncpu0 1"), Some(63));
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(8).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }
}
