//! Tells systemd how the daemon is doing: `sd_notify(3)`. Does nothing where nobody asked for it.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Start-up is complete.
pub fn ready() {
    tell("READY=1");
}

/// The daemon is about to end.
pub fn stopping() {
    tell("STOPPING=1");
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    tell(&status_message(text));
}

/// Each line of a datagram is one assignment, so a status must stay on its line.
fn status_message(text: &str) -> String {
    format!("STATUS={}", text.replace(['\n', '\r'], " "))
}

fn tell(message: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, message) {
        tracing::warn!("cannot notify systemd at NOTIFY_SOCKET={}: {error}", socket.display());
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A service manager that does not read must not stop the daemon.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn received(receiver: &UnixDatagram) -> String {
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 256];
        let length = receiver.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn messages_arrive_at_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(received(&receiver), "READY=1");
    }

    #[test]
    fn messages_arrive_at_an_abstract_name() {
        let name = format!("viaduct-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(received(&receiver), "STOPPING=1");
    }

    #[test]
    fn a_socket_that_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(send(folder.path().join("gone").as_os_str(), "READY=1").is_err());
    }

    #[test]
    fn a_status_cannot_add_assignments() {
        assert_eq!(status_message("synced\nREADY=1"), "STATUS=synced READY=1");
    }
}
