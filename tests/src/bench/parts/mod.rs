//! The parts of the server benchmark; each fills its share of the results.

pub mod build;
pub mod cold;
pub mod failures;
pub mod fleet;
pub mod herd;
pub mod serve;

use std::time::Duration;

use super::content::Content;
use super::load::{Answer, Script};
use super::origin::Origin;
use super::servers::Site;

/// What all parts need.
#[derive(Debug)]
pub struct Bench {
    /// The files.
    pub content: Content,
    /// The upstream.
    pub origin: Origin,
    /// Where servers are started.
    pub site: Site,
    /// A few seconds a part: shows that everything works, measures nothing.
    pub quick: bool,
}

impl Bench {
    fn repetitions(&self, full: usize) -> usize {
        if self.quick { 1 } else { full }
    }
}

/// No request is waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(180);

/// No server takes longer than this to accept its clients.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// A fixed list of targets for each connection, and all answers.
#[derive(Debug)]
struct Lists {
    lists: Vec<Vec<usize>>,
    answers: Vec<Answer>,
    checked: usize,
    check_every: Option<usize>,
}

impl Lists {
    /// Connections below `checked` have the content of their answers checked.
    fn new(lists: Vec<Vec<usize>>, checked: usize) -> Self {
        let answers = Vec::with_capacity(lists.iter().map(Vec::len).sum());
        Self {
            lists,
            answers,
            checked,
            check_every: None,
        }
    }

    /// Also checks the content of every connection whose number `every` divides.
    fn checking_every(mut self, every: usize) -> Self {
        self.check_every = Some(every);
        self
    }

    /// How many requests of the lists were not answered well, those never sent included.
    fn failures(&self) -> usize {
        let wanted: usize = self.lists.iter().map(Vec::len).sum();
        wanted
            - self
                .answers
                .iter()
                .filter(|answer| answer.failure.is_none())
                .count()
    }

    /// The first failure's reason.
    fn first_failure(&self) -> Option<&str> {
        self.answers
            .iter()
            .find_map(|answer| answer.failure.as_deref())
    }
}

impl Script for Lists {
    fn next(&mut self, connection: usize, done: usize) -> Option<usize> {
        self.lists[connection].get(done).copied()
    }

    fn checks(&self, connection: usize) -> bool {
        connection < self.checked
            || self
                .check_every
                .is_some_and(|every| connection.is_multiple_of(every))
    }

    fn answer(&mut self, answer: Answer) {
        self.answers.push(answer);
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
