//! Tokens in files are replaced while the daemon runs, and the old ones end.

use std::time::{Duration, Instant};

use testnet::Proxyd;
use testnet::eventually;

use super::fake::{SERVICES, SLICES};
use super::say;
use super::site::Site;
use super::world::await_ready;

/// The client reads the file once a minute. Real tokens overlap by much more.
const TAKEN_WITHIN: Duration = Duration::from_secs(90);

#[test]
fn a_token_that_was_replaced_in_its_file_is_used_when_the_old_one_is_refused() {
    let site = Site::new();
    let (a, client) = (site.backend("a"), site.pod("client"));
    site.serve(&[60], &a);
    let file = site.node.folder().join("token");
    std::fs::write(&file, "first").unwrap();
    site.fake.accept_only("first");
    let credentials = format!("tokenFile: {}", file.display());
    let kubeconfig = site.fake.kubeconfig(&site.node, &credentials).display().to_string();
    let daemon = Proxyd::spawn(&site.node, &["--kubeconfig", &kubeconfig]);
    await_ready(&daemon);
    site.await_served(&client, 60, "a");
    let prober = site.probe(&client, 60);

    std::fs::write(&file, "second").unwrap();
    site.fake.accept_only("second");
    site.serve(&[60, 61], &a);
    let revoked = Instant::now();
    for plural in [SERVICES, SLICES] {
        site.fake.forget_history(plural);
    }
    eventually("the new token is used", TAKEN_WITHIN, || {
        let requests = site.fake.requests();
        requests.iter().any(|request| request.token.as_deref() == Some("second"))
    });
    site.await_served(&client, 61, "a");
    say(&format!("the new token was used {:?} after the old one ended", revoked.elapsed()));
    prober.assert_undisturbed();
}
