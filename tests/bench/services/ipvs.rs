//! The daemon in IPVS mode, beside `ipvsadm -R`; under User Mode Linux (`scripts/bench` sees to that).

use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use testnet::{Mode, Namespace};

use super::daemon::Daemon;
use super::objects::{self, Size};
use super::{MIDDLE, SMALL, peers};
use crate::report::{Report, median};

/// Single changes of each size.
const CHANGES: u32 = 8;

/// `rounds` of every start.
pub(crate) fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    let mut most = 0.0_f64;
    for size in [SMALL, MIDDLE] {
        cold(report, size, rounds)?;
        most = most.max(changes(report, size)?);
    }
    report.bar("one endpoint changes, netlink messages at any size", most, 6.0, "messages");
    Ok(())
}

/// How many messages it takes to replace an endpoint, as the kernel's monitor of netlink sees them. The median of
/// some changes: what the daemon does every few seconds is in some of them too.
fn changes(report: &mut Report, size: Size) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    objects::write_files(size, folder.path())?;
    let namespace = Namespace::new("bench");
    namespace.ip("link add nlmon0 type nlmon");
    namespace.ip("link set nlmon0 up");
    let daemon = Daemon::start_in_mode(&namespace, folder.path(), Mode::Ipvs)?;
    let (mut took, mut sent) = (Vec::new(), Vec::new());
    for number in 0..CHANGES {
        let monitor = Monitor::start(&namespace)?;
        took.push(daemon.change_one_endpoint(&namespace, folder.path(), size, number)?);
        sent.push(monitor.finish()?);
    }
    daemon.stop()?;
    let case = format!("{}: one endpoint changes", size.name());
    report.add(&case, "viaduct", took);
    report.figure(&format!("{case}, netlink messages"), "viaduct", &sent, "messages");
    Ok(median(&sent))
}

/// Counts what is sent to the kernel by netlink in a namespace, but for questions about whole tables.
struct Monitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<f64>>,
}

impl Monitor {
    fn start(namespace: &Namespace) -> Result<Monitor> {
        const ALL: i32 = 3_u16.to_be() as i32;
        let socket =
            namespace.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL))))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || count(socket, &seen));
        Ok(Monitor { stop, thread })
    }

    fn finish(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(count) => Ok(count?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn count(mut socket: Socket, stop: &AtomicBool) -> std::io::Result<f64> {
    const REQUEST: u16 = 0x1;
    const DUMP: u16 = 0x300;
    let mut requests = 0;
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..length];
        // A frame of the loopback device begins with zeros.
        while let Some((head, _)) = rest.split_first_chunk::<8>() {
            let size = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let flags = u16::from_ne_bytes([head[6], head[7]]);
            if size < 16 {
                break;
            }
            requests += u32::from(flags & REQUEST != 0 && flags & DUMP != DUMP);
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(f64::from(requests))
}

fn cold(report: &mut Report, size: Size, rounds: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    objects::write_one_file(size, folder.path())?;
    let (mut starts, mut restarts, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let namespace = Namespace::new("bench");
        let [cold, restart] = Daemon::start_twice(&namespace, folder.path(), Mode::Ipvs)?;
        starts.push(cold);
        restarts.push(restart);
        let saved = namespace.command("ipvsadm", &["-S", "-n"]);
        let servers = saved.lines().filter(|line| line.starts_with("-A ")).count();
        ensure!(servers == size.services as usize, "{servers} virtual servers");
        theirs.push(peers::run(&["ipvsadm", "-R"], &saved)?.0);
    }
    let case = |what: &str| format!("{}: {what}", size.name());
    let ratio = median(&starts) / median(&theirs);
    report.add(&case("cold, plan + apply"), "viaduct", starts);
    report.add(&case("the same virtual servers"), "ipvsadm -R", theirs);
    report.add(&case("restart, compare"), "viaduct", restarts);
    report.figure(&case("cold, of ipvsadm -R"), "viaduct", &[ratio], "x");
    Ok(())
}
