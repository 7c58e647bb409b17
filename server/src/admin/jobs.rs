//! Jobs for later as operators see them, and what may be ordered about them.
//!
//! One queue has two shelves: jobs that wait or are worked on (`/admin/v1/retries`), and those that
//! were given up (`/admin/v1/dead`). `scope` in a list says whose jobs it shows; a job that only
//! one instance can do (an upload of bytes that it keeps) is shown by that instance alone.

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::web::{self, Data, Json, Query};
use actix_web::{HttpRequest, HttpResponse, Scope};
use lease::{Changed, JobId, JobQuery, JobState, JobView, LeaseError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::order::{Selection, Tally};
use super::reply::{lease_error, refusal};
use super::request::{ListQuery, Page, name_in, one, remote, whole_ms};
use crate::state::AppState;

/// Which of a queue's two shelves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    /// Jobs that wait or are worked on.
    Retries,
    /// Jobs that were given up.
    Dead,
}

impl Shelf {
    /// Its name below `/admin/v1/`.
    fn resource(self) -> &'static str {
        match self {
            Self::Retries => "retries",
            Self::Dead => "dead",
        }
    }

    /// What may be ordered about its jobs, beside dropping them.
    fn action(self) -> Action {
        match self {
            Self::Retries => Action::Run,
            Self::Dead => Action::Requeue,
        }
    }

    /// What is said of a job that is not on it.
    fn absence(self, id: &JobId) -> String {
        match self {
            Self::Retries => format!("no job {id} waits"),
            Self::Dead => format!("no job {id} is dead"),
        }
    }

    fn has(self, view: &JobView) -> bool {
        matches!(view.state, JobState::Dead { .. }) == (self == Self::Dead)
    }
}

/// What may be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Make a waiting job due.
    Run,
    /// Give a dead job another life.
    Requeue,
    /// Remove a job.
    Drop,
}

impl Action {
    /// The order's name in a path.
    fn verb(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Requeue => "requeue",
            Self::Drop => "drop",
        }
    }

    fn audit(self) -> &'static str {
        match self {
            Self::Run => "retry.run",
            Self::Requeue => "retry.requeue",
            Self::Drop => "retry.drop",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Run => "due",
            Self::Requeue => "requeued",
            Self::Drop => "dropped",
        }
    }
}

/// One job as JSON, for this API and for the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobItem {
    /// Its name, which orders are given by: the unit, with `upload:` before it for an upload.
    pub id: String,
    /// What is to be done: `fetch` from upstream, or `upload` kept bytes to the store.
    pub kind: String,
    /// What it is about, such as `example.com/m@v1.0.0.zip`.
    pub unit: String,
    /// `queued`, `taken` (somebody works on it) or `dead`.
    pub state: String,
    /// How often it was tried, the current time included.
    pub attempts: u32,
    /// Milliseconds since what it is about failed first.
    pub age_ms: u64,
    /// Milliseconds until it is tried, 0 when it is due; `null` unless `queued`.
    pub due_in_ms: Option<u64>,
    /// Milliseconds until others may take it if its worker is not heard of; `null` unless `taken`.
    pub returns_in_ms: Option<u64>,
    /// Milliseconds since it was given up; `null` unless `dead`.
    pub dead_for_ms: Option<u64>,
    /// Milliseconds that it is still worth doing; 0 when it no longer is.
    pub deadline_in_ms: u64,
    /// The one instance that can do it; `null`: any.
    pub owner: Option<String>,
    /// Who works on it; `null` unless `taken`.
    pub worker: Option<String>,
    /// Why its attempts failed, the newest first; `null` before the first.
    pub last_error: Option<String>,
}

impl From<JobView> for JobItem {
    fn from(view: JobView) -> Self {
        let JobView { info, state } = view;
        let id = info.id.as_str();
        let mut item = Self {
            id: id.to_owned(),
            kind: info.kind.to_string(),
            unit: storage::unit_of_job(&info.kind, id).to_owned(),
            state: String::new(),
            attempts: info.attempts,
            age_ms: whole_ms(info.age),
            due_in_ms: None,
            returns_in_ms: None,
            dead_for_ms: None,
            deadline_in_ms: whole_ms(info.deadline_in),
            owner: info.owner.map(|owner| owner.to_string()),
            worker: None,
            last_error: info.last_error.map(|error| error.to_string()),
        };
        match state {
            JobState::Queued { due_in } => {
                item.state = "queued".to_owned();
                item.due_in_ms = Some(whole_ms(due_in));
            }
            JobState::Taken { worker, returns_in } => {
                item.state = "taken".to_owned();
                item.returns_in_ms = Some(whole_ms(returns_in));
                item.worker = Some(worker.to_string());
            }
            JobState::Dead { since } => {
                item.state = "dead".to_owned();
                item.dead_for_ms = Some(whole_ms(since));
            }
        }
        item
    }
}

/// An order about one job, or about many: `{"id": …}`, `{"filter": …}` or `{"all": true}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobOrder {
    id: Option<String>,
    filter: Option<String>,
    #[serde(default)]
    all: bool,
    after: Option<String>,
}

/// The routes of one shelf: `GET` lists, `GET …/{id}` shows one or answers 404, `DELETE …/{id}`
/// drops it, `POST …/{id}/run` (`requeue` for dead jobs) gives the order, and `POST …/run` and
/// `…/drop` give one about the jobs that a JSON body names.
///
/// An id stands in a path percent-encoded; its slashes may stay as they are.
pub(super) fn routes(shelf: Shelf) -> Scope {
    let action = shelf.action();
    let listing = move |state: Data<AppState>, query: Query<ListQuery>| async move {
        list(&state, &query, shelf).await
    };
    let showing = move |state: Data<AppState>, request: HttpRequest| async move {
        show(&state, name(&request, shelf, ""), shelf).await
    };
    let dropping = move |state: Data<AppState>, request: HttpRequest| async move {
        let id = name(&request, shelf, "");
        by_name(&state, &request, id, shelf, Action::Drop).await
    };
    let ordering = move |state: Data<AppState>, request: HttpRequest| async move {
        let id = name(&request, shelf, &format!("/{}", action.verb()));
        by_name(&state, &request, id, shelf, action).await
    };
    let by_body_of = move |action: Action| {
        move |state: Data<AppState>, request: HttpRequest, order: Json<JobOrder>| async move {
            by_body(&state, &request, order.into_inner(), shelf, action).await
        }
    };
    let verb = action.verb();
    web::scope(shelf.resource())
        .service(web::resource("").get(listing))
        .service(web::resource(format!("/{verb}")).post(by_body_of(action)))
        .service(web::resource("/drop").post(by_body_of(Action::Drop)))
        .service(web::resource(format!("/{{id:.+}}/{verb}")).post(ordering))
        .service(web::resource("/{id:.+}").get(showing).delete(dropping))
}

fn name(request: &HttpRequest, shelf: Shelf, behind: &str) -> Result<String, LeaseError> {
    name_in(request, shelf.resource(), behind)
}

/// Lists one shelf.
async fn list(state: &AppState, query: &ListQuery, shelf: Shelf) -> HttpResponse {
    let after = match query.after(JobId::new) {
        Ok(after) => after,
        Err(error) => return lease_error(&error),
    };
    let query = JobQuery {
        dead: shelf == Shelf::Dead,
        contains: query.filter.clone(),
        after,
        limit: query.limit(),
    };
    match state.warmer.retries().list(&query).await {
        Ok(page) => HttpResponse::Ok().json(Page {
            // After the answer, which may have shown that the shared queue is away.
            scope: state.queue.scope(),
            items: page.jobs.into_iter().map(JobItem::from).collect(),
            next: page.next.map(|id| id.as_str().to_owned()),
        }),
        Err(error) => lease_error(&error),
    }
}

/// Shows one job of a shelf, or answers 404.
async fn show(state: &AppState, name: Result<String, LeaseError>, shelf: Shelf) -> HttpResponse {
    let id = match name.and_then(JobId::new) {
        Ok(id) => id,
        Err(error) => return lease_error(&error),
    };
    match state.warmer.retries().get(&id).await {
        Ok(Some(view)) if shelf.has(&view) => one(state.queue.scope(), JobItem::from(view)),
        Ok(view) => gone(shelf, &id, view.as_ref()),
        Err(error) => lease_error(&error),
    }
}

/// Carries out an order in a body.
async fn by_body(
    state: &AppState,
    request: &HttpRequest,
    order: JobOrder,
    shelf: Shelf,
    action: Action,
) -> HttpResponse {
    let JobOrder {
        id,
        filter,
        all,
        after,
    } = order;
    match Selection::read("id", id, filter, all, after) {
        Ok(Selection::One(id)) => by_name(state, request, Ok(id), shelf, action).await,
        Ok(Selection::Many { filter, after }) => {
            many(state, request, filter, after, shelf, action).await
        }
        Err(why) => refusal(StatusCode::BAD_REQUEST, &why),
    }
}

/// Carries out an order about one job and leaves one line in the log, whatever came of it.
async fn by_name(
    state: &AppState,
    request: &HttpRequest,
    name: Result<String, LeaseError>,
    shelf: Shelf,
    action: Action,
) -> HttpResponse {
    let id = match name.and_then(JobId::new) {
        Ok(id) => id,
        Err(error) => return lease_error(&error),
    };
    let changed = carry_out(state, &id, shelf, action).await;
    let outcome = match &changed {
        Ok(Changed::Changed) => action.done(),
        Ok(Changed::Taken) => "taken",
        Ok(Changed::Gone) => "gone",
        Ok(Changed::Full) => "full",
        Err(_) => "failed",
    };
    tracing::info!(
        audit = action.audit(),
        audit.outcome = outcome,
        job.id = %id,
        remote = remote(request),
        error = changed.as_ref().err().map(|error| error as &dyn std::error::Error),
        "an operator gave an order about a job",
    );
    match changed {
        Ok(Changed::Changed) => {
            HttpResponse::Ok().json(json!({ "outcome": outcome, "id": id.as_str() }))
        }
        Ok(Changed::Taken) => HttpResponse::Conflict().json(json!({
            "error": format!("{id} is being worked on right now; nothing was changed"),
            "id": id.as_str(),
        })),
        Ok(Changed::Full) => HttpResponse::ServiceUnavailable()
            .insert_header((RETRY_AFTER, "1"))
            .json(json!({
                "error": "the queue is full; nothing was changed: drop jobs, or try again later",
                "id": id.as_str(),
            })),
        Ok(Changed::Gone) => {
            // Between the two questions it may have moved on: then it is simply not here.
            let view = state.warmer.retries().get(&id).await.ok().flatten();
            gone(shelf, &id, view.as_ref())
        }
        Err(error) => lease_error(&error),
    }
}

/// Carries out an order about all jobs of a shelf with `filter` in their ids, or as many as one
/// request may.
async fn many(
    state: &AppState,
    request: &HttpRequest,
    filter: String,
    after: Option<String>,
    shelf: Shelf,
    action: Action,
) -> HttpResponse {
    let after_id = after.as_deref().map(JobId::new).transpose();
    if let Err(error) = after_id {
        return lease_error(&error);
    }
    let page = async |after: Option<String>| {
        let query = JobQuery {
            dead: shelf == Shelf::Dead,
            contains: Some(filter.clone()),
            after: after.map(JobId::new).transpose()?,
            limit: lease::PAGE_LIMIT_MAX,
        };
        let page = state.warmer.retries().list(&query).await?;
        let ids: Vec<JobId> = page.jobs.into_iter().map(|view| view.info.id).collect();
        Ok((ids, page.next.map(|id| id.as_str().to_owned())))
    };
    let order = async |id: &JobId| {
        let changed = carry_out(state, id, shelf, action).await?;
        Ok(changed == Changed::Changed)
    };
    let tally = Tally::of(after, page, JobId::as_str, order).await;
    tracing::info!(
        audit = action.audit(),
        audit.outcome = if tally.error.is_some() {
            "failed"
        } else {
            action.done()
        },
        audit.changed = tally.changed,
        audit.skipped = tally.skipped,
        job.filter = filter,
        remote = remote(request),
        error = tally
            .error
            .as_ref()
            .map(|error| error as &dyn std::error::Error),
        "an operator gave an order about many jobs",
    );
    tally.answer()
}

async fn carry_out(
    state: &AppState,
    id: &JobId,
    shelf: Shelf,
    action: Action,
) -> Result<Changed, LeaseError> {
    let queue = state.warmer.retries();
    match action {
        Action::Run => queue.run_now(id).await,
        Action::Requeue => queue.requeue(id).await,
        // The queue drops a job wherever it is; who looked at one shelf means that shelf.
        Action::Drop => match queue.get(id).await? {
            Some(view) if shelf.has(&view) => queue.drop_job(id).await,
            _ => Ok(Changed::Gone),
        },
    }
}

fn gone(shelf: Shelf, id: &JobId, elsewhere: Option<&JobView>) -> HttpResponse {
    let absence = shelf.absence(id);
    let error = match (shelf, elsewhere) {
        (Shelf::Retries, Some(view)) if Shelf::Dead.has(view) => {
            format!("{absence}: it is dead; see /admin/v1/dead, `corral dead`")
        }
        (Shelf::Dead, Some(view)) if Shelf::Retries.has(view) => {
            format!("{absence}: it waits or is worked on; see /admin/v1/retries, `corral retries`")
        }
        _ => absence,
    };
    HttpResponse::NotFound().json(json!({ "error": error, "id": id.as_str() }))
}

#[cfg(test)]
mod tests;
