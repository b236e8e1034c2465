//! The other ways of doing the same: kube-proxy's two shapes, the same maps by `nft -f`, and the bare
//! netlink messages.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use netlink::nftables::{
    Chain, DataType, Element, ElementChange, Expression, Hook, Key, Meta, NatKind, NftSocket,
    Payload, Register, Set, Table, TableFamily, Transaction, Verdict,
};
use testnet::{Namespace, programs};

use super::daemon::LIMIT;
use super::objects::Size;

/// Elements of a transaction, as the daemon has it.
const CHUNK: usize = 8192;
const TCP: u8 = 6;

/// kube-proxy's nftables mode: a chain for each Service and each endpoint, a map for each Service.
pub(super) fn chain_per_service(size: Size) -> String {
    let mut text = String::from(
        "table ip kube-proxy {\n map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n \
         chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }\n \
         chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n \
         chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }\n}\n",
    );
    text += "table ip kube-proxy {\n";
    for service in 0..size.services {
        for endpoint in 0..size.endpoints {
            let ip = size.endpoint(service, endpoint);
            let _ = writeln!(
                text,
                " chain endpoint-{service}-{endpoint} {{ ip saddr {ip} jump mark-for-masquerade; meta l4proto tcp dnat to {ip}:8080; }}"
            );
        }
        let vip = size.vip(service);
        let choices: Vec<String> = (0..size.endpoints)
            .map(|endpoint| format!("{endpoint} : goto endpoint-{service}-{endpoint}"))
            .collect();
        let _ = writeln!(
            text,
            " chain service-{service} {{ ip daddr {vip} tcp dport 80 ip saddr != 10.128.0.0/9 jump mark-for-masquerade; numgen random mod {} vmap {{ {} }}; }}",
            size.endpoints,
            choices.join(", ")
        );
    }
    text += "}\n";
    for service in 0..size.services {
        let vip = size.vip(service);
        let _ = writeln!(
            text,
            "add element ip kube-proxy service-ips {{ {vip} . tcp . 80 : goto service-{service} }}"
        );
    }
    text
}

/// kube-proxy's iptables mode.
pub(super) fn iptables(size: Size) -> String {
    let mut text = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n");
    for service in 0..size.services {
        let _ = writeln!(text, ":KUBE-SVC-{service:016X} - [0:0]");
        for endpoint in 0..size.endpoints {
            let _ = writeln!(text, ":KUBE-SEP-{service:010X}{endpoint:06X} - [0:0]");
        }
    }
    text += "-A PREROUTING -j KUBE-SERVICES\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n";
    for service in 0..size.services {
        let vip = size.vip(service);
        let comment = format!("-m comment --comment \"bench/svc-{service}:http cluster IP\"");
        let _ = writeln!(
            text,
            "-A KUBE-SERVICES {comment} -m tcp -p tcp -d {vip} --dport 80 -j KUBE-SVC-{service:016X}\n\
             -A KUBE-SVC-{service:016X} {comment} -m tcp -p tcp -d {vip} --dport 80 ! -s 10.128.0.0/9 -j KUBE-MARK-MASQ"
        );
        for endpoint in 0..size.endpoints {
            let ip = size.endpoint(service, endpoint);
            let left = size.endpoints - endpoint;
            let chance = match left {
                1 => String::new(),
                _ => format!(
                    "-m statistic --mode random --probability {:.10} ",
                    1.0 / f64::from(left)
                ),
            };
            let _ = writeln!(
                text,
                "-A KUBE-SVC-{service:016X} -m comment --comment \"bench/svc-{service}:http -> {ip}:8080\" {chance}-j KUBE-SEP-{service:010X}{endpoint:06X}\n\
                 -A KUBE-SEP-{service:010X}{endpoint:06X} -s {ip} -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{service:010X}{endpoint:06X} -m tcp -p tcp -j DNAT --to-destination {ip}:8080"
            );
        }
    }
    text + "COMMIT\n"
}

/// Runs a program in a fresh namespace with a file as input; milliseconds, and whether it ended.
pub(super) fn run(program: &[&str], input: &str) -> Result<(f64, bool)> {
    run_in(&Namespace::new("peer"), program, input)
}

/// The same in a namespace that is there already.
pub(super) fn run_in(namespace: &Namespace, program: &[&str], input: &str) -> Result<(f64, bool)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("input");
    fs::write(&file, input)?;
    let line: Vec<String> = program.iter().map(|word| (*word).to_owned()).collect();
    let lock = namespace.xtables_lock().to_owned();
    namespace.run(move || timed(&line, &file, &lock))
}

fn timed(line: &[String], file: &Path, lock: &Path) -> Result<(f64, bool)> {
    let errors = tempfile::tempfile()?;
    let started = Instant::now();
    let mut child = Command::new(&line[0])
        .args(&line[1..])
        .env("XTABLES_LOCKFILE", lock)
        .stdin(fs::File::open(file)?)
        .stdout(Stdio::null())
        .stderr(errors.try_clone()?)
        .spawn()
        .with_context(|| format!("start {}", line[0]))?;
    loop {
        let elapsed = started.elapsed();
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                use std::io::{Read, Seek};
                let (mut errors, mut said) = (errors, String::new());
                errors.rewind()?;
                errors.read_to_string(&mut said)?;
                bail!("{}: {status}: {}", line.join(" "), said.trim());
            }
            return Ok((elapsed.as_secs_f64() * 1e3, true));
        }
        if elapsed > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok((elapsed.as_secs_f64() * 1e3, false));
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// What the daemon would write, as text for `nft -f`.
pub(super) fn rendered(folder: &Path) -> Result<String> {
    let output = Command::new(programs::proxyd())
        .args(["render", "--hostname-override", "node-0", "--cluster-cidr", "10.128.0.0/9"])
        .arg("--manifests")
        .arg(folder)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "proxyd render: {}", said.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// The bare netlink messages of the same maps: encoded, sent and acknowledged; milliseconds.
pub(super) fn floor(size: Size) -> Result<f64> {
    let namespace = Namespace::new("floor");
    Ok(namespace.run(move || write_maps(size))?)
}

fn write_maps(size: Size) -> netlink::Result<f64> {
    const TABLE: Table<'static> = Table { family: TableFamily::Ip, name: "floor" };
    const FRONTEND: &[DataType] = &[DataType::Ipv4Addr, DataType::InetProto, DataType::InetService];
    const SLOT: &[DataType] =
        &[DataType::Ipv4Addr, DataType::InetProto, DataType::InetService, DataType::Mark];
    const BACKEND: &[DataType] = &[DataType::Ipv4Addr, DataType::InetService];
    let mut socket = NftSocket::open()?;
    let started = Instant::now();
    let pick = format!("pick-{}", size.endpoints);
    let mut transaction = Transaction::default();
    transaction.add_table(TABLE);
    transaction.add_set(TABLE, &Set::new("endpoints", SLOT).map(BACKEND));
    transaction.add_set(TABLE, &Set::new("services", FRONTEND).verdict_map().counted());
    transaction.add_set(TABLE, &Set::new("cluster-ips", &[DataType::Ipv4Addr]));
    transaction.add_chain(TABLE, &Chain { name: &pick, hook: None });
    let frontend = [
        Expression::LoadPayload(Payload::IP_DADDR, Register(0)),
        Expression::LoadMeta(Meta::L4Proto, Register(1)),
        Expression::LoadPayload(Payload::TH_DPORT, Register(2)),
    ];
    let choose = [
        Expression::LoadRandom { modulus: size.endpoints, to: Register(3) },
        Expression::LookupMap { map: "endpoints".into(), key: Register(0), value: Register(0) },
        Expression::Nat {
            kind: NatKind::Destination,
            family: 2,
            address: Register(0),
            port: Register(1),
        },
    ];
    transaction.add_rule(TABLE, &pick, "", &[&frontend[..], &choose].concat());
    let hook = Hook { kind: "nat", number: Hook::PREROUTING, priority: -100 };
    transaction.add_chain(TABLE, &Chain { name: "nat-prerouting", hook: Some(hook) });
    let dispatch = Expression::LookupVerdict { map: "services".into(), key: Register(0) };
    transaction.add_rule(TABLE, "nat-prerouting", "", &[&frontend[..], &[dispatch]].concat());
    let frontend = |service| Key::new().ip(size.vip(service).into()).protocol(TCP).port(80);
    let block = (CHUNK as u32 / (size.endpoints + 2)).max(1);
    for first in (0..size.services).step_by(block as usize) {
        let services = first..size.services.min(first + block);
        let mut create = |set, element: &Element| {
            transaction.change_element(ElementChange::Create, TABLE, set, element.borrow());
        };
        for service in services.clone() {
            for endpoint in 0..size.endpoints {
                let value = Key::new().ip(size.endpoint(service, endpoint).into()).port(8080);
                create("endpoints", &Element::new(frontend(service).mark(endpoint)).value(value));
            }
        }
        for service in services.clone() {
            let goto = Verdict::Goto(pick.clone());
            create("services", &Element::new(frontend(service)).verdict(goto));
        }
        for service in services {
            create("cluster-ips", &Element::new(Key::new().ip(size.vip(service).into())));
        }
        socket.commit(std::mem::take(&mut transaction))?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e3)
}
