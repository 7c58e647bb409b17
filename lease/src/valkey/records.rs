//! `ValkeyRecords`: the record store that a fleet shares.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use redis::{Cmd, Value};

use super::act::Act;
use super::keys::KeyKind;
use super::ops::Ops;
use super::ring::Ring;
use super::scan::{self, Wanted};
use super::tasks::Tasks;
use crate::{
    LeaseError, PAGE_LIMIT_MAX, Record, RecordEntry, RecordPage, Records, check_record_key,
    record_ttl_ms,
};

/// The largest value. What is larger would hold up everybody behind it on the shared connection.
const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A page of a listing ends once its values have this many bytes, however few they are.
const PAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many records of a listing are read side by side.
const READS_MAX: usize = 16;

/// The record store that a fleet shares.
#[derive(Debug)]
pub(crate) struct ValkeyRecords {
    ring: Arc<Ring>,
    _tasks: Arc<Tasks>,
}

impl ValkeyRecords {
    pub(crate) fn new(ring: Arc<Ring>, tasks: Arc<Tasks>) -> Self {
        Self {
            ring,
            _tasks: tasks,
        }
    }

    fn place(&self, key: &str) -> (&Ops, String) {
        let ops = &self.ring.of(key).ops;
        (ops, ops.keys.name(KeyKind::Record, key))
    }
}

async fn read(ops: &Ops, act: Act<'_>, name: &str) -> Result<Option<Record>, LeaseError> {
    let script = &ops.node.scripts().read;
    let answer = match ops.node.script(act, script, &[name], &[]).await? {
        Some(Value::Array(answer)) => answer,
        Some(_) => return Err(ops.node.nonsense(act, "no list")),
        None => {
            let mut pipeline = redis::pipe();
            pipeline.cmd("GET").arg(name).cmd("PTTL").arg(name);
            ops.node.send_all(act, &pipeline).await?
        }
    };
    let Ok([value, left]) = <[Value; 2]>::try_from(answer) else {
        return Err(ops.node.nonsense(act, "a list of another length"));
    };
    let Some(value) = ops.optional_bytes(act, value)? else {
        return Ok(None);
    };
    Ok(Some(Record {
        value: Bytes::from(value),
        expires_in: ops.left(act, left)?,
    }))
}

#[async_trait]
impl Records for ValkeyRecords {
    async fn get(&self, key: &str) -> Result<Option<Record>, LeaseError> {
        check_record_key(key)?;
        let (ops, name) = self.place(key);
        read(ops, Act::new("read record", key), &name).await
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), LeaseError> {
        check_record_key(key)?;
        let ttl_ms = record_ttl_ms(ttl)?.get();
        if let Err(error) = fits(&value) {
            // Keeping the old one would be answering with what was replaced.
            self.delete(key).await?;
            return Err(error);
        }
        let act = Act::new("write record", key);
        let (ops, name) = self.place(key);
        match ops
            .node
            .send(act, &write(&name, &value, ttl_ms, false))
            .await?
        {
            Value::Okay => Ok(()),
            _ => Err(ops.node.nonsense(act, "not OK")),
        }
    }

    async fn set_if_absent(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<bool, LeaseError> {
        check_record_key(key)?;
        let ttl_ms = record_ttl_ms(ttl)?.get();
        fits(&value)?;
        let act = Act::new("write record", key);
        let (ops, name) = self.place(key);
        match ops
            .node
            .send(act, &write(&name, &value, ttl_ms, true))
            .await?
        {
            Value::Okay => Ok(true),
            Value::Nil => Ok(false),
            _ => Err(ops.node.nonsense(act, "neither OK nor nothing")),
        }
    }

    async fn delete(&self, key: &str) -> Result<bool, LeaseError> {
        check_record_key(key)?;
        let act = Act::new("delete record", key);
        let (ops, name) = self.place(key);
        let mut delete = redis::cmd("DEL");
        match ops.node.send(act, delete.arg(&name)).await? {
            Value::Int(deleted) => Ok(deleted > 0),
            _ => Err(ops.node.nonsense(act, "no number")),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<RecordPage, LeaseError> {
        let limit = limit.clamp(1, PAGE_LIMIT_MAX);
        let wanted = Wanted {
            kind: KeyKind::Record,
            prefix,
            contains: "",
            after,
            limit: limit + 1,
        };
        let act = Act::new("list records", prefix);
        let mut texts = scan::texts(&self.ring, act, wanted).await?;
        let mut more = texts.len() > limit;
        texts.truncate(limit);
        let last = texts.last().cloned();
        let reads = texts.into_iter().map(|key| async move {
            let (ops, name) = self.place(&key);
            let record = read(ops, act, &name).await;
            record.map(|record| record.map(|record| RecordEntry { key, record }))
        });
        let mut reads = stream::iter(reads).buffered(READS_MAX);
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut next = last;
        while let Some(read) = reads.next().await {
            let Some(entry) = read? else {
                continue;
            };
            bytes += entry.record.value.len();
            let key = entry.key.clone();
            records.push(entry);
            if bytes >= PAGE_BYTES_MAX {
                more = more || next.as_ref() != Some(&key);
                next = Some(key);
                break;
            }
        }
        Ok(RecordPage {
            records,
            next: next.filter(|_| more),
        })
    }
}

fn fits(value: &Bytes) -> Result<(), LeaseError> {
    if value.len() <= VALUE_BYTES_MAX {
        return Ok(());
    }
    Err(LeaseError::TooLarge {
        bytes: value.len() as u64,
        bytes_max: VALUE_BYTES_MAX as u64,
    })
}

fn write(name: &str, value: &Bytes, ttl_ms: u64, only_if_absent: bool) -> Cmd {
    let mut set = Cmd::with_capacity(6, name.len() + value.len() + 32);
    set.arg("SET").arg(name).arg(&value[..]);
    if only_if_absent {
        set.arg("NX");
    }
    set.arg("PX").arg(ttl_ms);
    set
}
