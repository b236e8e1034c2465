//! NetworkPolicy, with packets: the plugin attaches pods, the daemon knows them from manifests.

mod basics;
mod explain;
mod forgery;
mod live;
mod random;
mod source_address;
mod unknown_pods;
mod world;
