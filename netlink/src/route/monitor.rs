//! Notifications of links, addresses, routes and permanent neighbours.

use crate::error::Result;
use crate::socket::Socket;

// include/uapi/linux/rtnetlink.h
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
/// Unread notifications that the socket can hold, in bytes.
const BUFFER: usize = 1024 * 1024;

/// Receives the kernel's notifications of the network namespace in which it was opened.
pub struct RouteMonitor {
    socket: Socket,
}

impl RouteMonitor {
    /// Subscribes to changes of links, addresses and routes.
    pub fn open() -> Result<RouteMonitor> {
        let socket = Socket::open(libc::NETLINK_ROUTE)?;
        for group in [
            RTNLGRP_LINK,
            RTNLGRP_IPV4_IFADDR,
            RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV6_IFADDR,
            RTNLGRP_IPV6_ROUTE,
        ] {
            socket.join(group, BUFFER)?;
        }
        Ok(RouteMonitor { socket })
    }

    /// Waits for the next change. `ENOBUFS` if more changed than the socket can hold.
    pub fn wait(&mut self) -> Result<()> {
        self.socket.wait(|_| ()).map_err(|error| error.during("wait for network notifications"))
    }
}
