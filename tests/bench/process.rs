//! A program under measurement: what it used, and its end.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

/// A running program; killed when dropped, and when this process is.
pub(crate) struct Program {
    name: String,
    child: Child,
}

impl Program {
    /// Starts what the command says in the calling thread's namespace. That thread must live on.
    pub(crate) fn start(name: &str, line: &[String], log: fs::File) -> Result<Program> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(line);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Program { name: name.to_owned(), child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Ends it as an upgrade does.
    pub(crate) fn stop(mut self) -> Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("{} does not end", self.name)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The most memory that a process had in use, in MB.
pub(crate) fn peak_memory(pid: u32) -> Result<f64> {
    status(pid, "VmHWM:")
}

/// The memory that a process has in use, in MB.
pub(crate) fn memory(pid: u32) -> Result<f64> {
    status(pid, "VmRSS:")
}

fn status(pid: u32, name: &'static str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes: f64 =
        line.context(name)?.trim().trim_end_matches(" kB").parse().context(name)?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// The processor time of a process, and of those that it started and that have ended, in milliseconds.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((ticks(11) + ticks(12) + ticks(13) + ticks(14)) * 1000.0 / per_second)
}

/// The children of a process that run this program.
pub(crate) fn children(pid: u32, program: &str) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = lists
        .flat_map(|list| list.split(' ').filter_map(|n| n.parse().ok()).collect::<Vec<_>>())
        .collect();
    // Until it runs the program, a child is its parent's copy, memory and name.
    let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    children.into_iter().filter(|child| name(child).trim() == program).collect()
}
