//! What a pod does that wants to pass for another one.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use testnet::traffic::Server;
use testnet::{Host, Namespace, Pod};

use super::world::WEB;

/// How long a datagram may take that is to arrive; one that is not to arrive is awaited as long.
pub(crate) const UNDERWAY: Duration = Duration::from_millis(500);

/// Gives somebody an address that is another's.
pub(crate) fn take(thief: &Namespace, address: IpAddr) {
    thief.ip(&match address {
        IpAddr::V4(_) => format!("address add {address}/32 dev eth0"),
        IpAddr::V6(_) => format!("address add {address}/128 dev eth0 nodad"),
    });
}

/// On a bridge somebody would have to ask where `to` is, with the address that is not his: he knows it already.
pub(crate) fn know(thief: &Namespace, to: &Pod<'_>) {
    for address in to.ips() {
        let arguments = format!("neigh replace {address} lladdr {} dev eth0", to.mac());
        let _ = thief.try_command("ip", &arguments.split(' ').collect::<Vec<_>>());
    }
}

/// Whether a datagram from this source address gets to the server.
pub(crate) fn arrives(sender: &Namespace, source: IpAddr, to: IpAddr, server: &Server) -> bool {
    let before = server.answered();
    sender.run(move || {
        let socket = UdpSocket::bind(SocketAddr::new(source, 0)).expect("an address of the pod");
        let _ = socket.send_to(b"forged", SocketAddr::new(to, WEB));
    });
    let deadline = Instant::now() + UNDERWAY;
    while server.answered() == before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    server.answered() > before
}

/// Sends `to` an advertisement that `target` is at this Ethernet address now.
pub(crate) fn advertise(sender: &Namespace, source: IpAddr, to: IpAddr, target: IpAddr, mac: &str) {
    let IpAddr::V6(target) = target else { panic!("{target} has no neighbour discovery") };
    let mac: Vec<u8> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
    // Type, code, checksum (the kernel's); solicited and override; RFC 4861 section 4.4, and the option of 4.6.1.
    let head = [136, 0, 0, 0, 0x60, 0, 0, 0];
    let message = [&head[..], &target.octets(), &[2, 1], &mac].concat();
    sender.run(move || {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6));
        let socket = socket.expect("a raw socket");
        socket.set_unicast_hops_v6(255).expect("a hop limit");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("an address of the pod");
        socket.send_to(&message, &SocketAddr::new(to, 0).into()).expect("a message sent");
    });
}

/// Sends a datagram to `WEB` behind an authentication header (RFC 4302), which conntrack looks behind.
pub(crate) fn send_authenticated(sender: &Namespace, source_port: u16, to: IpAddr) {
    const AH: i32 = 51;
    // UDP follows; length in words, less two; parameters, number, and a value of three words.
    let mut packet = vec![17, 4, 0, 0];
    packet.extend([0; 20]);
    packet.extend(source_port.to_be_bytes());
    packet.extend(WEB.to_be_bytes());
    packet.extend([0, 12, 0, 0]);
    packet.extend(b"word");
    sender.run(move || {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(AH)));
        let socket = socket.expect("a raw socket");
        socket.send_to(&packet, &SocketAddr::new(to, 0).into()).expect("a packet sent");
    });
}

/// Sends a datagram to `WEB` in a frame with these tags, in hexadecimal.
pub(crate) fn send_tagged(from: &Pod<'_>, to: &Pod<'_>, tags: &str) {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.v4(), to.v4()) else {
        panic!("addresses of IPv4")
    };
    // UDP without a checksum: ports, length, and a word.
    let mut datagram = 5555u16.to_be_bytes().to_vec();
    datagram.extend(WEB.to_be_bytes());
    datagram.extend([0, 12, 0, 0]);
    datagram.extend(b"word");
    let mut header = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0];
    header.extend(source.octets().into_iter().chain(destination.octets()));
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = !((sum >> 16) + (sum & 0xffff)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let packet: String = header.iter().chain(&datagram).map(|byte| format!("{byte:02x}")).collect();
    let macs = format!("{}{}", to.mac(), from.mac()).replace(':', "");
    let script = format!(
        "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); \
         s.send(bytes.fromhex('{macs}{tags}0800{packet}'))"
    );
    from.namespace().command("python3", &["-c", &script]);
}
