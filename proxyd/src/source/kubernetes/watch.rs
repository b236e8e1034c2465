//! Lists and watches of each kind, as one stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::Stream;
use futures_util::{StreamExt, TryStreamExt, stream};
use kube::api::{WatchEvent, WatchParams};
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client};

use super::super::api::Document;
use super::Wanted;
use super::object::{
    ApiObject, ClusterNetworkPolicies, EndpointSlices, Kind, Namespaces, NetworkPolicies, Nodes,
    Pods, ServiceCidrs, Services,
};

/// Pauses between attempts, with jitter: whatever happened while the server was away is to be in force
/// within seconds of its return, and a list may follow an attempt to go on.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A kind that the server does not have is asked for again after this time: somebody may have installed it.
const ABSENT: Duration = Duration::from_secs(300);
/// A list, or a page of one, that does not go on for so long is asked for again.
const LIST_SILENCE: Duration = Duration::from_secs(60);
/// A question that costs nothing is answered within this time.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// A watch begins, or goes on after a gap.
    Answered,
    /// All have been listed: what was not among them is gone.
    ListEnds,
    Is(Box<Document>),
    /// It is there, and this is why nothing but its name can be read.
    Unreadable(Box<Document>, String),
    Gone(Box<Document>),
    /// It goes on after a while.
    Failed(String),
    /// The same, for want of a permission.
    Forbidden(String),
    /// Nobody needs to wait for this kind.
    Dispensable,
}

/// Everything that happens, for ever.
pub(super) type Watches = Pin<Box<dyn Stream<Item = Seen> + Send>>;

/// Watches all kinds, in the way that the server can.
pub(super) fn all(client: &Client, wanted: Wanted) -> Watches {
    let asked = client.clone();
    let answers = stream::unfold(Some(pauses()), move |pauses| {
        let client = asked.clone();
        async move {
            let mut pauses = pauses?;
            let answer = initial_lists(&client).await;
            if answer.is_ok() {
                return Some((answer, None));
            }
            tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
            Some((answer, Some(pauses)))
        }
    });
    let client = client.clone();
    Box::pin(answers.flat_map(move |answer| match answer {
        Ok(lists) => kinds(&client, wanted, &lists),
        Err(error) => {
            let what = failed::<Nodes>(&watcher::Error::WatchStartFailed(error));
            Box::pin(stream::iter([Seen { kind: Nodes::KIND, what }]))
        }
    }))
}

fn kinds(client: &Client, wanted: Wanted, lists: &InitialListStrategy) -> Watches {
    let mut kinds = vec![of_kind::<Nodes>(client, lists)];
    if wanted.services {
        kinds.push(of_kind::<Services>(client, lists));
        kinds.push(of_kind::<EndpointSlices>(client, lists));
        kinds.push(of_kind::<ServiceCidrs>(client, lists));
    }
    if wanted.policies || wanted.namespaces {
        kinds.push(of_kind::<Namespaces>(client, lists));
    }
    if wanted.policies {
        kinds.push(of_kind::<Pods>(client, lists));
        kinds.push(of_kind::<NetworkPolicies>(client, lists));
        kinds.push(of_kind::<ClusterNetworkPolicies>(client, lists));
    }
    if wanted.reports_policies() {
        kinds.push(of_kind::<NetworkPolicies>(client, lists));
        kinds.push(of_kind::<ClusterNetworkPolicies>(client, lists));
    }
    Box::pin(stream::select_all(kinds))
}

/// Whether the server sends what there is as the beginning of a watch, which costs it less memory than a
/// list: asked with a selector that matches nothing. A server without that refuses, or does not say where
/// the beginning ends. Fails only if there was no answer.
async fn initial_lists(client: &Client) -> kube::Result<InitialListStrategy> {
    let api: Api<ApiObject<Nodes>> = Api::all(client.clone());
    let question = WatchParams {
        label_selector: Some("viaduct.io/none".to_owned()),
        timeout: Some(1),
        bookmarks: true,
        send_initial_events: true,
        ..WatchParams::default()
    };
    let ask = async {
        let mut events = std::pin::pin!(api.watch(&question, "0").await?);
        events.try_next().await
    };
    let first = match tokio::time::timeout(PATIENCE, ask).await {
        Ok(Ok(first)) => first,
        // Refused: whatever is the matter, a list tells it better.
        Ok(Err(kube::Error::Api(_))) | Err(_) => None,
        Ok(Err(error)) => return Err(error),
    };
    let ends = "k8s.io/initial-events-end";
    Ok(match first {
        Some(WatchEvent::Bookmark(mark)) if mark.metadata.annotations.contains_key(ends) => {
            InitialListStrategy::StreamingList
        }
        _ => InitialListStrategy::ListWatch,
    })
}

fn pauses() -> impl Backoff {
    let pauses = backon::ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        // Jitter is up to as much again.
        .with_max_delay(LONGEST_PAUSE / 2)
        .with_jitter()
        .without_max_times();
    OnceQuiet(ResetTimerBackoff::new(pauses.into(), QUIET))
}

/// All events of a kind, for ever; where the server does not know it, it is asked again after a while.
fn of_kind<K: Kind>(client: &Client, lists: &InitialListStrategy) -> Watches {
    let first = until_absent::<K>(client, lists);
    let (client, lists) = (client.clone(), lists.clone());
    let later = stream::repeat(()).then(|()| tokio::time::sleep(ABSENT));
    Box::pin(first.chain(later.flat_map(move |()| until_absent::<K>(&client, &lists))))
}

/// All events of a kind; it ends if the server does not know the kind.
fn until_absent<K: Kind>(client: &Client, lists: &InitialListStrategy) -> Watches {
    let answered = Arc::new(AtomicBool::new(false));
    let api: Api<ApiObject<K>> = Api::all(noting_answers(client, &answered));
    let mut config =
        watcher::Config { initial_list_strategy: lists.clone(), ..watcher::Config::default() };
    config.label_selector = K::LABELS.map(str::to_owned);
    config.field_selector = K::FIELDS.map(str::to_owned);
    let seen = |what| Seen { kind: K::KIND, what };
    // The client goes on from where it was, whatever the error. Where that cannot be, it begins anew.
    let attempts = stream::repeat_with(move || {
        let events = given_up_when_silent(watch(api.clone(), config.clone()));
        ending_with(events, |event| event.as_ref().is_err_and(is_lost))
    });
    let events = attempts.flatten().backoff(pauses()).into_stream();
    let mut listed = false;
    let what = events.map(move |event| match event {
        Ok(Event::Init) => (vec![What::ListBegins], false),
        Ok(Event::InitApply(object) | Event::Apply(object)) => (vec![is(object)], false),
        Ok(Event::InitDone) => {
            listed = true;
            (vec![What::ListEnds], false)
        }
        Ok(Event::Delete(object)) => (vec![What::Gone(object.into_document().0)], false),
        // A server without this kind has no objects of it, and is not asked again soon. One that had them
        // says so in error, or somebody in between does.
        Err(error) if K::OPTIONAL && !listed && has_status(&error, 404) => {
            (vec![What::ListBegins, What::ListEnds], true)
        }
        // It is asked again and again, as with every kind; Services work without it.
        Err(error) if K::OPTIONAL && !listed && has_status(&error, 403) => {
            (vec![failed::<K>(&error), What::Dispensable], false)
        }
        Err(error) => (vec![failed::<K>(&error)], false),
    });
    let until_last = ending_with(telling_answers(what, answered), |(_, last)| *last);
    Box::pin(until_last.flat_map(move |(what, _)| stream::iter(what.into_iter().map(seen))))
}

/// A client for whose requests it is noted that one was answered well.
fn noting_answers(client: &Client, answered: &Arc<AtomicBool>) -> Client {
    let (asked, answered) = (client.clone(), Arc::clone(answered));
    let noting = tower::service_fn(move |request| {
        let (client, answered) = (asked.clone(), Arc::clone(&answered));
        async move {
            let response = client.send(request).await?;
            answered.fetch_or(response.status().is_success(), Ordering::Relaxed);
            Ok::<_, kube::Error>(response)
        }
    });
    Client::new(noting, client.default_namespace())
}

/// The same, and [`What::Answered`] once a watch was answered, which is no event by itself. (That a list is
/// answered says nothing until it is read.)
fn telling_answers(
    told: impl Stream<Item = (Vec<What>, bool)>,
    answered: Arc<AtomicBool>,
) -> impl Stream<Item = (Vec<What>, bool)> {
    let mut told = Box::pin(told);
    let (mut listing, mut next) = (true, None);
    stream::poll_fn(move |context| {
        if let Some(item) = next.take() {
            return Poll::Ready(Some(item));
        }
        let polled = told.as_mut().poll_next(context);
        if let Poll::Ready(Some((what, _))) = &polled {
            match what.last() {
                Some(What::ListBegins) => listing = true,
                Some(What::ListEnds) => listing = false,
                _ => {}
            }
        }
        let answered = answered.swap(false, Ordering::Relaxed) && !listing;
        match polled {
            Poll::Ready(Some(item)) if answered => next = Some(item),
            Poll::Pending if answered => {}
            other => return other,
        }
        // What was polled just now came after the answer.
        Poll::Ready(Some((vec![What::Answered], false)))
    })
}

/// The same events, until a list pauses for too long: the last one is that error. A watch may be silent for as
/// long as it likes; that its server is there is seen to below HTTP.
fn given_up_when_silent<T>(
    events: impl Stream<Item = watcher::Result<Event<T>>>,
) -> impl Stream<Item = watcher::Result<Event<T>>> {
    stream::unfold(Some((Box::pin(events), true)), async |state| {
        let (mut events, listing) = state?;
        if !listing {
            let event = events.next().await?;
            let listing = matches!(event, Ok(Event::Init));
            return Some((event, Some((events, listing))));
        }
        let Ok(event) = tokio::time::timeout(LIST_SILENCE, events.next()).await else {
            let silent = format!("nothing was heard of the list for {LIST_SILENCE:?}");
            let error = kube::Error::Service(silent.into());
            return Some((Err(watcher::Error::InitialListFailed(error)), None));
        };
        let listing = !matches!(event, Some(Ok(Event::InitDone)));
        Some((event?, Some((events, listing))))
    })
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
        (document, None) => What::Is(document),
        (document, Some(error)) => What::Unreadable(document, error),
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

fn has_status(error: &watcher::Error, code: u16) -> bool {
    status_of(error).is_some_and(|status| status.code == code)
}

fn failed<K: Kind>(error: &watcher::Error) -> What {
    let why = explain::<K>(error);
    if has_status(error, 403) { What::Forbidden(why) } else { What::Failed(why) }
}

/// Whether what comes next cannot be told: the place in the stream is too old for the server, or something
/// in it could not be read and is passed over.
fn is_lost(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        watcher::Error::InitialListFailed(kube::Error::Service(_)) => true,
        watcher::Error::WatchFailed(kube::Error::SerdeError(_) | kube::Error::Api(_)) => true,
        _ => false,
    }
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
