//! `proxyd cleanup`.

#![allow(clippy::print_stdout, reason = "the command's output")]

use anyhow::{Context, Result};
use netlink::nftables::{NftSocket, Table, TableFamily, Transaction};

/// Tables of ours and of kube-proxy's nftables mode.
const TABLES: [(TableFamily, &str); 4] = [
    (TableFamily::Ip, "viaduct"),
    (TableFamily::Ip6, "viaduct"),
    (TableFamily::Ip, "kube-proxy"),
    (TableFamily::Ip6, "kube-proxy"),
];

/// Deletes them.
pub(super) fn cleanup() -> Result<()> {
    let mut socket = NftSocket::open()?;
    for (family, name) in TABLES {
        let mut transaction = Transaction::default();
        transaction.delete_table(Table { family, name });
        let prefix = if family == TableFamily::Ip { "ip" } else { "ip6" };
        match socket.commit(transaction) {
            Ok(()) => println!("deleted nftables table {prefix} {name}"),
            Err(error) if error.not_found() => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("delete nftables table {prefix} {name}"));
            }
        }
    }
    Ok(())
}
