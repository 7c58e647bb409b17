//! Reading what the queue's scripts answer.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use uuid::Uuid;

use crate::queue::StoredPayload;
use crate::valkey::act::Act;
use crate::valkey::ops::Ops;
use crate::{
    JobId, JobInfo, JobRef, JobSerial, JobState, JobView, LeaseError, Receipt, Review, TakenJob,
};

/// An answer, or a part of one, and what it answers.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    ops: &'a Ops,
    verb: &'static str,
    value: Value,
}

/// Where a job is, as the scripts say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    Taken,
    Dead,
    Finished,
    Other,
    Unknown,
}

impl<'a> Reader<'a> {
    pub(super) fn new(ops: &'a Ops, verb: &'static str, value: Value) -> Self {
        Self { ops, verb, value }
    }

    fn part(&self, value: Value) -> Self {
        Self::new(self.ops, self.verb, value)
    }

    /// Counts and returns the error for an answer that means nothing here.
    pub(super) fn nonsense(&self, detail: &str) -> LeaseError {
        self.ops.node.nonsense(Act::new(self.verb, ""), detail)
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.value, Value::Array(_))
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.value, Value::Nil | Value::Boolean(false))
    }

    pub(super) fn int(self) -> Result<i64, LeaseError> {
        match self.value {
            Value::Int(number) => Ok(number),
            _ => Err(self.nonsense("no number")),
        }
    }

    /// A number that is none below zero.
    fn natural(self) -> Result<u64, LeaseError> {
        Ok(u64::try_from(self.int()?).unwrap_or(0))
    }

    pub(super) fn count(self) -> Result<usize, LeaseError> {
        Ok(usize::try_from(self.natural()?).unwrap_or(usize::MAX))
    }

    /// Milliseconds; none when they are below zero.
    pub(super) fn duration(self) -> Result<Duration, LeaseError> {
        self.natural().map(Duration::from_millis)
    }

    fn attempts(self) -> Result<u32, LeaseError> {
        Ok(u32::try_from(self.natural()?).unwrap_or(u32::MAX))
    }

    pub(super) fn list(self) -> Result<Vec<Self>, LeaseError> {
        match self.value {
            Value::Array(values) => {
                let part = |value| Self::new(self.ops, self.verb, value);
                Ok(values.into_iter().map(part).collect())
            }
            _ => Err(self.nonsense("no list")),
        }
    }

    pub(super) fn fields<const N: usize>(self) -> Result<[Self; N], LeaseError> {
        let whole = self.part(Value::Nil);
        <[Self; N]>::try_from(self.list()?).map_err(|_| whole.nonsense("a list of another length"))
    }

    fn bytes(self) -> Result<Option<Vec<u8>>, LeaseError> {
        let act = Act::new(self.verb, "");
        self.ops.optional_bytes(act, self.value)
    }

    /// A text; nothing reads as the empty one.
    pub(super) fn text(self) -> Result<String, LeaseError> {
        let whole = self.part(Value::Nil);
        let bytes = self.bytes()?.unwrap_or_default();
        String::from_utf8(bytes).map_err(|_| whole.nonsense("a text that is none"))
    }

    /// A text; nothing and the empty one are none.
    fn some_text(self) -> Result<Option<Arc<str>>, LeaseError> {
        let text = self.text()?;
        Ok((!text.is_empty()).then(|| Arc::from(text)))
    }

    pub(super) fn serial(self) -> Result<JobSerial, LeaseError> {
        let whole = self.part(Value::Nil);
        let serial = self.text()?.parse();
        serial.map_err(|_| whole.nonsense("a serial that is none"))
    }

    fn state(self) -> Result<State, LeaseError> {
        let whole = self.part(Value::Nil);
        match self.text()?.as_str() {
            "q" => Ok(State::Queued),
            "t" => Ok(State::Taken),
            "d" => Ok(State::Dead),
            "f" => Ok(State::Finished),
            "o" => Ok(State::Other),
            "u" => Ok(State::Unknown),
            _ => Err(whole.nonsense("no state of ours")),
        }
    }

    /// One job that was taken as `token`.
    pub(super) fn taken(self, token: Uuid) -> Result<TakenJob, LeaseError> {
        let whole = self.part(Value::Nil);
        let [id, serial, body, kind, owner, attempts, age, left, error] = self.fields()?;
        let id = JobId::new(id.text()?)?;
        let serial = serial.serial()?;
        let body: StoredPayload = serde_json::from_slice(&body.bytes()?.unwrap_or_default())
            .map_err(|_| whole.nonsense("a payload in another form"))?;
        Ok(TakenJob {
            receipt: Receipt {
                job: JobRef {
                    id: id.clone(),
                    serial,
                },
                token,
            },
            payload: body.payload,
            info: JobInfo {
                id,
                serial,
                kind: Arc::from(kind.text()?),
                owner: owner.some_text()?,
                attempts: attempts.attempts()?,
                age: age.duration()?,
                deadline_in: left.duration()?,
                last_error: error.some_text()?,
            },
        })
    }

    /// One job as an operator sees it.
    pub(super) fn view(self, id: &JobId) -> Result<JobView, LeaseError> {
        let whole = self.part(Value::Nil);
        let [
            state,
            ms,
            serial,
            kind,
            owner,
            worker,
            attempts,
            age,
            left,
            error,
        ] = self.fields()?;
        let state = match state.state()? {
            State::Queued => JobState::Queued {
                due_in: ms.duration()?,
            },
            State::Taken => JobState::Taken {
                worker: Arc::from(worker.text()?),
                returns_in: ms.duration()?,
            },
            State::Dead => JobState::Dead {
                // A time that makes no sense is none.
                since: Duration::from_millis(
                    u64::try_from(ms.int()?.saturating_neg()).unwrap_or(0),
                ),
            },
            _ => return Err(whole.nonsense("a state that no job has")),
        };
        Ok(JobView {
            info: JobInfo {
                id: id.clone(),
                serial: serial.serial()?,
                kind: Arc::from(kind.text()?),
                owner: owner.some_text()?,
                attempts: attempts.attempts()?,
                age: age.duration()?,
                deadline_in: left.duration()?,
                last_error: error.some_text()?,
            },
            state,
        })
    }

    /// What is known of one push.
    pub(super) fn review(self) -> Result<Review, LeaseError> {
        let [state, attempts, ms, serial] = self.fields()?;
        Ok(match state.state()? {
            State::Queued => Review::Queued {
                attempts: attempts.attempts()?,
                due_in: ms.duration()?,
            },
            State::Taken => Review::Taken {
                attempts: attempts.attempts()?,
                returns_in: ms.duration()?,
            },
            State::Dead => Review::Dead {
                attempts: attempts.attempts()?,
            },
            State::Finished => Review::Done,
            State::Other => Review::Other {
                serial: serial.serial()?,
            },
            State::Unknown => Review::Unknown,
        })
    }
}
