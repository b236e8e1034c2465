//! The daemon in IPVS mode, beside `ipvsadm -R`; under User Mode Linux (`scripts/bench` sees to that).

use anyhow::{Result, ensure};
use testnet::{Mode, Namespace};

use super::daemon::Daemon;
use super::objects::{self, Size};
use super::{MIDDLE, SMALL, peers};
use crate::report::{Report, median};

/// `rounds` of every start.
pub(crate) fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    [SMALL, MIDDLE].into_iter().try_for_each(|size| cold(report, size, rounds))
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
