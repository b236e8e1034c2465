//! Lists and watches of each kind, as one stream.

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::Stream;
use futures_util::{StreamExt, TryStreamExt, stream};
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client};

use super::super::api::Document;
use super::object::{ApiObject, EndpointSlices, Kind, Nodes, ServiceCidrs, Services};

/// Pauses between attempts, with jitter: whatever happened while the server was away is to be in force
/// within seconds of its return, and a list may follow an attempt to go on.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Pauses grow until there was no error for so long.
const QUIET: Duration = Duration::from_secs(10);

/// Pauses that do not begin anew with every sign of life: the client tells that it begins to list before
/// there is any answer.
struct OnceQuiet(ResetTimerBackoff<watcher::ExponentialBackoff>);

impl Iterator for OnceQuiet {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

impl Backoff for OnceQuiet {
    fn reset(&mut self) {}
}

/// What happened to the objects of a kind.
#[derive(Debug)]
pub(super) struct Seen {
    /// The kind, as in `Service`.
    pub(super) kind: &'static str,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// All objects are listed from here on.
    ListBegins,
    /// All have been listed: what was not among them is gone.
    ListEnds,
    Is(Box<Document>),
    /// It is there, and this is why nothing but its name can be read.
    Unreadable(Box<Document>, String),
    Gone(Box<Document>),
    /// It goes on after a while.
    Failed(String),
    /// Nobody needs to wait for this kind.
    Dispensable,
}

/// Everything that happens, for ever.
pub(super) type Watches = Pin<Box<dyn Stream<Item = Seen> + Send>>;

/// Watches all kinds.
pub(super) fn all(client: &Client) -> Watches {
    let kinds = [
        of_kind::<Services>(client),
        of_kind::<EndpointSlices>(client),
        of_kind::<Nodes>(client),
        of_kind::<ServiceCidrs>(client),
    ];
    Box::pin(stream::select_all(kinds))
}

fn of_kind<K: Kind>(client: &Client) -> Watches {
    let api: Api<ApiObject<K>> = Api::all(client.clone());
    let mut config = watcher::Config::default();
    if let Some(labels) = K::LABELS {
        config = config.labels(labels);
    }
    let seen = |what| Seen { kind: K::KIND, what };
    let pauses = backon::ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times();
    let pauses = OnceQuiet(ResetTimerBackoff::new(pauses.into(), QUIET));
    // The client goes on from where it was, whatever the error. Where that cannot be, it begins anew.
    let attempts = stream::repeat_with(move || {
        ending_with(watch(api.clone(), config.clone()), |event| event.as_ref().is_err_and(is_lost))
    });
    let events = attempts.flatten().backoff(pauses).into_stream();
    let mut listed = false;
    let what = events.map(move |event| match event {
        Ok(Event::Init) => (vec![What::ListBegins], false),
        Ok(Event::InitApply(object) | Event::Apply(object)) => (vec![is(object)], false),
        Ok(Event::InitDone) => {
            listed = true;
            (vec![What::ListEnds], false)
        }
        Ok(Event::Delete(object)) => (vec![What::Gone(Box::new(object.into_document().0))], false),
        // A server without this kind has no objects of it, and is not asked again. One that had them says
        // so in error, or somebody in between does.
        Err(error) if K::OPTIONAL && !listed && is_not_found(&error) => {
            (vec![What::ListBegins, What::ListEnds], true)
        }
        // It is asked again and again, as with every kind; Services work without it.
        Err(error) if K::OPTIONAL && !listed && is_forbidden(&error) => {
            (vec![What::Failed(explain::<K>(&error)), What::Dispensable], false)
        }
        Err(error) => (vec![What::Failed(explain::<K>(&error))], false),
    });
    let until_last = ending_with(what, |(_, last)| *last);
    Box::pin(until_last.flat_map(move |(what, _)| stream::iter(what.into_iter().map(seen))))
}

/// The stream, up to the first item of which this is true.
fn ending_with<S>(stream: S, is_last: impl Fn(&S::Item) -> bool) -> impl Stream<Item = S::Item>
where
    S: Stream,
{
    let state = Some((Box::pin(stream), is_last));
    stream::unfold(state, async |state| {
        let (mut stream, is_last) = state?;
        let item = stream.next().await?;
        let ended = is_last(&item);
        Some((item, (!ended).then_some((stream, is_last))))
    })
}

fn is<K: Kind>(object: ApiObject<K>) -> What {
    match object.into_document() {
        (document, None) => What::Is(Box::new(document)),
        (document, Some(error)) => What::Unreadable(Box::new(document), error),
    }
}

fn status_of(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// Whether what comes next cannot be told: the place in the stream is too old for the server, or something
/// in it could not be read and is passed over.
fn is_lost(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        watcher::Error::WatchFailed(kube::Error::SerdeError(_) | kube::Error::Api(_)) => true,
        _ => false,
    }
}

fn is_not_found(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 404)
}

fn is_forbidden(error: &watcher::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 403)
}

/// What was tried, why it failed, and what to do.
fn explain<K: Kind>(error: &watcher::Error) -> String {
    let verb = match error {
        watcher::Error::InitialListFailed(_) => "list",
        _ => "watch",
    };
    let group = if K::GROUP.is_empty() { String::new() } else { format!(".{}", K::GROUP) };
    let resource = format!("{}{group}", K::PLURAL);
    match status_of(error) {
        Some(status) if status.code == 403 => format!(
            "{verb} {resource}: forbidden: the service account needs the verb {verb:?} on {resource}: {}",
            status.message
        ),
        // What the client makes of a line that is no event.
        Some(status) if status.code == 0 => {
            format!("{verb} {resource}: the API server sent what cannot be read")
        }
        Some(status) => format!("{verb} {resource}: {} ({})", status.message, status.code),
        None => {
            // The whole chain: the outermost alone says little.
            let mut text = format!("{verb} {resource}: {error}");
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                let more = error.to_string();
                if !text.contains(&more) {
                    text += &format!(": {more}");
                }
                cause = error.source();
            }
            text
        }
    }
}
