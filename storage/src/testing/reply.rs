//! `Reply`: what a fake upstream answers to one fetch, and what goes wrong meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

use super::Gate;
use crate::error::Error;
use crate::upstream::{CacheControl, FetchRequest, Fetched, FetchedBody};

/// The size of a body's pieces, unless a reply says otherwise.
const PIECE_BYTES: usize = 16 * 1024;

/// One answer: a status or a body, and where it is held up or breaks.
#[derive(Debug, Clone)]
pub struct Reply {
    head: Head,
    head_gate: Option<Gate>,
    body: Bytes,
    announced: bool,
    piece_bytes: usize,
    /// Where the body waits, lowest first.
    holds: Vec<(usize, Gate)>,
    end: End,
    etag: Option<String>,
    last_modified: Option<String>,
    cache_control: CacheControl,
}

#[derive(Debug, Clone)]
enum Head {
    Body,
    Error(Error),
    Panic,
}

/// How a body ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Whole,
    /// With an error, as when a connection breaks.
    Broken(usize),
    /// Without one, although there should be more.
    Short(usize),
    Panic(usize),
}

impl Reply {
    /// Answers with `body`, its length announced, in pieces of 16 KiB.
    pub fn body(body: impl Into<Bytes>) -> Self {
        Self {
            head: Head::Body,
            head_gate: None,
            body: body.into(),
            announced: true,
            piece_bytes: PIECE_BYTES,
            holds: Vec::new(),
            end: End::Whole,
            etag: None,
            last_modified: None,
            cache_control: CacheControl::default(),
        }
    }

    /// Fails before any byte, as a status or a lost connection does.
    pub fn error(error: Error) -> Self {
        Self {
            head: Head::Error(error),
            ..Self::body(Bytes::new())
        }
    }

    /// Answers 500.
    pub fn failure() -> Self {
        Self::error(Error::Upstream {
            upstream: "fake".to_owned(),
            reason: "status 500".to_owned(),
            source: None,
        })
    }

    /// Takes no connection.
    pub fn unreachable() -> Self {
        Self::error(Error::Unreachable {
            upstream: "fake".to_owned(),
            reason: "connection refused".to_owned(),
            source: None,
        })
    }

    /// Answers 404, or 410 when `gone`, with `text`.
    pub fn not_found(gone: bool, text: &str) -> Self {
        Self::error(Error::NotFound {
            gone,
            text: text.to_owned(),
        })
    }

    /// Panics instead of answering, as a defect in a client would.
    pub fn panic() -> Self {
        Self {
            head: Head::Panic,
            ..Self::body(Bytes::new())
        }
    }

    /// Sends nothing, not even a status, before `gate` is open.
    #[must_use]
    pub fn head_held(mut self, gate: &Gate) -> Self {
        self.head_gate = Some(gate.clone());
        self
    }

    /// Sends `position` bytes of the body, and the rest once `gate` is open.
    #[must_use]
    pub fn held_at(mut self, position: usize, gate: &Gate) -> Self {
        self.holds.push((position, gate.clone()));
        self.holds.sort_by_key(|(position, _)| *position);
        self
    }

    /// Sends pieces of `bytes` bytes.
    ///
    /// # Panics
    ///
    /// When `bytes` is 0.
    #[must_use]
    pub fn in_pieces_of(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a piece has at least one byte");
        self.piece_bytes = bytes;
        self
    }

    /// Does not announce the length.
    #[must_use]
    pub fn unannounced(mut self) -> Self {
        self.announced = false;
        self
    }

    /// Breaks off with an error after `position` bytes.
    #[must_use]
    pub fn broken_at(mut self, position: usize) -> Self {
        self.end = End::Broken(position);
        self
    }

    /// Ends after `position` bytes as if that were all.
    ///
    /// An upstream must not do that; the fill must notice it all the same.
    #[must_use]
    pub fn short_at(mut self, position: usize) -> Self {
        self.end = End::Short(position);
        self
    }

    /// Panics after `position` bytes.
    #[must_use]
    pub fn panic_at(mut self, position: usize) -> Self {
        self.end = End::Panic(position);
        self
    }

    /// Sends this `ETag`; a fetch that knows it already is answered 304, and one that has the
    /// begin of it gets the rest.
    #[must_use]
    pub fn etag(mut self, etag: &str) -> Self {
        self.etag = Some(etag.to_owned());
        self
    }

    /// Sends this `Last-Modified`; a fetch that knows it already is answered 304.
    #[must_use]
    pub fn last_modified(mut self, date: &str) -> Self {
        self.last_modified = Some(date.to_owned());
        self
    }

    /// Sends these `Cache-Control` directives.
    #[must_use]
    pub fn cache_control(mut self, directives: CacheControl) -> Self {
        self.cache_control = directives;
        self
    }

    /// Sends `Cache-Control: must-revalidate`.
    #[must_use]
    pub fn must_revalidate(mut self) -> Self {
        self.cache_control.must_revalidate = true;
        self
    }

    /// Answers `request`. `ending` is dropped when the exchange is over, however it ends.
    pub(super) async fn perform(
        self,
        upstream: Arc<str>,
        request: &FetchRequest,
        ending: impl Send + 'static,
    ) -> Result<Fetched, Error> {
        if let Some(gate) = &self.head_gate {
            gate.pass().await;
        }
        match &self.head {
            Head::Body => {}
            Head::Error(error) => return Err(error.clone()),
            Head::Panic => panic!("the fake upstream was told to panic"),
        }
        let len = self.announced.then_some(self.body.len() as u64);
        if len.is_some_and(|len| len > request.bytes_max) {
            return Err(too_large(request));
        }
        let unchanged = request.validators.as_ref().is_some_and(|known| {
            let same =
                |ours: &Option<String>, theirs: &Option<String>| ours.is_some() && ours == theirs;
            known.upstream.as_ref().is_none_or(|of| *of == upstream)
                && (same(&self.etag, &known.etag)
                    || same(&self.last_modified, &known.last_modified))
        });
        let rest_of = request
            .resume
            .as_ref()
            .filter(|from| from.upstream == upstream && self.etag.as_ref() == Some(&from.etag));
        let offset = rest_of.map_or(0, |from| usize::try_from(from.offset).unwrap_or(0));
        Ok(Fetched {
            upstream,
            len: if unchanged { None } else { len },
            etag: self.etag.clone(),
            last_modified: self.last_modified.clone(),
            cache_control: self.cache_control,
            content_type: None,
            resumed: offset > 0,
            body: if unchanged {
                FetchedBody::NotModified
            } else {
                FetchedBody::Modified(self.pieces(offset, request, ending).boxed())
            },
        })
    }

    fn pieces(
        self,
        offset: usize,
        request: &FetchRequest,
        ending: impl Send + 'static,
    ) -> impl stream::Stream<Item = Result<Bytes, Error>> + Send + 'static {
        let request = request.clone();
        let sending = (self, offset, false, ending);
        stream::unfold(sending, move |(mut reply, position, ended, ending)| {
            let request = request.clone();
            async move {
                if ended {
                    return None;
                }
                while let Some((_, gate)) = reply.holds.first().filter(|hold| hold.0 <= position) {
                    gate.pass().await;
                    reply.holds.remove(0);
                }
                let end = match reply.end {
                    End::Whole => reply.body.len(),
                    End::Broken(at) | End::Short(at) | End::Panic(at) => at.min(reply.body.len()),
                };
                if position >= end {
                    return match reply.end {
                        End::Whole | End::Short(_) => None,
                        End::Broken(_) => {
                            let error = Error::Upstream {
                                upstream: "fake".to_owned(),
                                reason: "the connection broke".to_owned(),
                                source: None,
                            };
                            Some((Err(error), (reply, position, true, ending)))
                        }
                        End::Panic(_) => panic!("the fake upstream was told to panic"),
                    };
                }
                let hold = reply.holds.first().map_or(usize::MAX, |hold| hold.0);
                let until = (position + reply.piece_bytes).min(hold).min(end);
                if until as u64 > request.bytes_max {
                    return Some((Err(too_large(&request)), (reply, until, true, ending)));
                }
                let piece = reply.body.slice(position..until);
                Some((Ok(piece), (reply, until, false, ending)))
            }
        })
    }
}

fn too_large(request: &FetchRequest) -> Error {
    Error::TooLarge {
        unit: request.unit.clone(),
        bytes_max: request.bytes_max,
    }
}
