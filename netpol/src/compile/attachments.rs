//! Pods that the plugin attached on this node.

use std::net::IpAddr;
use std::sync::Arc;

use super::Compiler;
use crate::model::PolicyName;
use crate::world::{Pod, PodName, Uid};

/// A pod as the plugin attached it: its addresses are known before the API server knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Whose it is.
    pub pod: PodName,
    /// The pod's UID; empty if the runtime did not tell.
    pub uid: Arc<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node's end of its link; empty if the plugin did not tell.
    pub interface: Arc<str>,
}

impl Compiler {
    /// A pod was attached, under the runtime's name of the attachment. Whoever had one of its addresses has it
    /// no more, and whoever had its link is gone: tells those attachments. One that is left without an address
    /// still has its link, whose pod may send from nowhere.
    pub fn attach(&mut self, id: Arc<str>, attachment: Attachment) -> Vec<Arc<str>> {
        let others = self.attachments.iter().filter(|(other, _)| **other != id);
        let others = others.filter(|(_, earlier)| earlier.shares_with(&attachment));
        let others: Vec<Arc<str>> = others.map(|(other, _)| Arc::clone(other)).collect();
        for other in &others {
            let Some(mut left) = self.take(other) else { continue };
            left.addresses.retain(|address| !attachment.addresses.contains(address));
            if !left.interface.is_empty() && left.interface != attachment.interface {
                self.put(Arc::clone(other), left);
            }
        }
        self.take(&id);
        self.put(id, attachment);
        others
    }

    fn put(&mut self, id: Arc<str>, attachment: Attachment) {
        let pod = attachment.pod.clone();
        self.attached.entry(pod.clone()).or_default().insert(Arc::clone(&id));
        self.attachments.insert(id, attachment);
        self.reconsider(&pod);
    }

    /// Whether an attachment's pod is not known, and some policy may be about it.
    pub fn is_unknown(&self, id: &str) -> bool {
        self.attachments.get(id).is_some_and(|attachment| {
            self.may_be_judged(&attachment.pod.namespace) && !self.knows(attachment)
        })
    }

    /// Whose link this is, by the name of the node's end.
    pub fn pod_behind(&self, link: &str) -> Option<&PodName> {
        let mut all = self.attachments.values();
        all.find(|attachment| &*attachment.interface == link).map(|attachment| &attachment.pod)
    }

    /// An attachment.
    pub fn attachment(&self, id: &str) -> Option<&Attachment> {
        self.attachments.get(id)
    }

    pub(super) fn knows(&self, attachment: &Attachment) -> bool {
        let pod = self.world.pods.get(&attachment.pod);
        pod.is_some_and(|pod| attachment.is_of(&attachment.pod, pod))
    }

    /// Whether there is any policy for the pods of a namespace.
    pub(super) fn may_be_judged(&self, namespace: &Arc<str>) -> bool {
        let first = PolicyName { namespace: Arc::clone(namespace), name: "".into() };
        let mut policies = self.world.policies.range(first..);
        !self.world.cluster_policies.is_empty()
            || policies.next().is_some_and(|(policy, _)| policy.namespace == *namespace)
    }

    /// An attachment ended.
    pub fn detach(&mut self, id: &str) {
        self.take(id);
    }

    fn take(&mut self, id: &str) -> Option<Attachment> {
        let old = self.attachments.remove(id)?;
        if let Some(ids) = self.attached.get_mut(&old.pod) {
            ids.remove(id);
            if ids.is_empty() {
                self.attached.remove(&old.pod);
            }
        }
        self.reconsider(&old.pod);
        Some(old)
    }

    pub(super) fn attachments_of<'a>(
        &'a self,
        name: &'a PodName,
        pod: &'a Pod,
    ) -> impl Iterator<Item = &'a Attachment> {
        let ids = self.attached.get(name).into_iter().flatten();
        let all = ids.filter_map(|id| self.attachments.get(id));
        all.filter(move |attachment| attachment.is_of(name, pod))
    }
}

impl Attachment {
    /// Whether they have an address or the link in common.
    fn shares_with(&self, other: &Attachment) -> bool {
        let link = !self.interface.is_empty() && self.interface == other.interface;
        link || self.addresses.iter().any(|address| other.addresses.contains(address))
    }

    fn is_of(&self, name: &PodName, pod: &Pod) -> bool {
        self.pod == *name && Uid::from(&*self.uid).may_be(pod.uid)
    }
}
