//! The two acts: a calm herd, and a herd whose holder is killed.

use std::time::{Duration, Instant};

use e2e::client::{self, Outcome};

use super::picture::{InstanceNow, Now, Role};
use super::screen::{Screen, Style};
use super::stage::{Crowd, Stage};

/// Time between two pictures.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The share of the file at which the holder is killed.
const DEATH_AT: f64 = 0.4;

/// A holder whose address refuses connections is noticed this soon.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// One assertion of the demo and whether it held.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    pub(crate) holds: bool,
    pub(crate) text: String,
}

/// Everything that the audience was told so far.
pub(crate) struct Show {
    pub(crate) screen: Screen,
    pub(crate) checks: Vec<Check>,
    events: Vec<String>,
}

impl Show {
    pub(crate) fn new(screen: Screen) -> Self {
        Self {
            screen,
            checks: Vec::new(),
            events: Vec::new(),
        }
    }

    fn event(&mut self, at: Duration, text: &str) {
        let paint = self.screen.paint();
        let time = format!("{:>5.1} s", at.as_secs_f64());
        self.screen.tell(&format!("{time}  {text}"));
        self.events
            .push(format!("{}  {text}", paint.text(Style::Dim, &time)));
    }

    fn check(&mut self, holds: bool, text: impl Into<String>) {
        self.checks.push(Check {
            holds,
            text: text.into(),
        });
    }
}

/// One act's herd, watched.
struct Watch<'a> {
    title: &'static str,
    file: &'a str,
    crowd: Crowd,
    /// Bytes that upstream had sent before its latest request.
    sent_before: u64,
    last: Option<Now>,
}

impl<'a> Watch<'a> {
    /// Sends the herd, and announces what it is about.
    fn begin(stage: &Stage, show: &mut Show, title: &'static str, file: &'a str) -> Self {
        show.screen.tell(&format!("\n{title}"));
        Self {
            title,
            file,
            crowd: stage.send_herd(file),
            sent_before: 0,
            last: None,
        }
    }

    /// Shows the stage until `ends`, or until every client is done.
    async fn play(&mut self, stage: &Stage, show: &mut Show, mut ends: impl FnMut(&Now) -> bool) {
        loop {
            let done = self.crowd.is_done().await;
            let now = self.look(stage, show).await;
            let over = done || ends(&now);
            self.last = Some(now);
            if over {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&mut self, stage: &Stage, show: &mut Show) -> Now {
        let mut now = stage
            .look(self.title, self.file, &self.crowd, self.sent_before)
            .await;
        if let Some(last) = &self.last
            && now.upstream_requests > last.upstream_requests
        {
            self.sent_before += last.upstream_bytes;
            now.upstream_bytes = now.upstream_bytes.saturating_sub(last.upstream_bytes);
        }
        self.tell_changes(&now, show);
        let lines = now.lines(&show.events, show.screen.paint());
        show.screen.show(&lines, &now.headline());
        now
    }

    fn tell_changes(&self, now: &Now, show: &mut Show) {
        let last = self.last.as_ref();
        let asked = last.map_or(0, |last| last.upstream_requests);
        if now.upstream_requests > asked {
            let text = if asked == 0 {
                "upstream is asked"
            } else {
                "upstream is asked again"
            };
            show.event(now.elapsed, text);
        }
        for (index, instance) in now.instances.iter().enumerate() {
            let before = last.map(|last| &last.instances[index]);
            tell_instance(instance, before, now.elapsed, show);
        }
    }
}

fn tell_instance(now: &InstanceNow, before: Option<&InstanceNow>, at: Duration, show: &mut Show) {
    let name = now.name;
    let role = before.map_or(Role::Idle, |before| before.role);
    if now.role != role {
        match (role, now.role) {
            (Role::Follows, Role::Holds) => {
                show.event(at, &format!("{name} takes over: it has the lease now"));
            }
            (_, Role::Holds) => show.event(at, &format!("{name} has the lease and fetches")),
            (_, Role::Follows) => {
                show.event(at, &format!("{name} waits for the holder and reads along"))
            }
            _ => {}
        }
    }
    if let Some(first) = now.first_byte
        && before.is_none_or(|before| before.first_byte.is_none())
    {
        let first = first.as_secs_f64();
        show.event(
            at,
            &format!("all clients of {name} got their first byte within {first:.2} s"),
        );
    }
    if now.finished == now.clients && before.is_none_or(|before| before.finished < now.clients) {
        show.event(at, &format!("all clients of {name} have the whole file"));
    }
}

/// Everybody asks for a cold file.
pub(crate) async fn calm_herd(stage: &mut Stage, show: &mut Show, version: &str) {
    let file = Stage::file(version);
    let upstream = stage.at_upstream(&file);
    let content = stage.content(&file);
    let title = "1. Everybody asks for a cold file at the same moment";
    let mut watch = Watch::begin(stage, show, title, &file);
    watch.play(stage, show, |_| false).await;
    stage.fleet.stored(&file, &content).await;
    watch.look(stage, show).await;

    let everybody: Vec<Outcome> = (0..3)
        .flat_map(|at| watch.crowd.outcomes(at).to_vec())
        .collect();
    let (good, all) = (whole(&everybody, &content), everybody.len());
    show.check(
        good == all,
        format!("{good} of {all} clients got the file, every byte right (SHA-256)"),
    );
    let requests = upstream.requests();
    show.check(requests == 1, format!("upstream requests: {requests}"));
    let took = everybody
        .iter()
        .map(|o| o.elapsed)
        .max()
        .unwrap_or_default();
    let first = watch.crowd.first_byte(&[0, 1, 2]);
    show.check(
        first.is_some_and(|first| first < took / 3),
        format!(
            "everybody's first byte within {:.2} s, while the file took {:.1} s",
            first.unwrap_or_default().as_secs_f64(),
            took.as_secs_f64()
        ),
    );
    tokio::time::sleep(stage.scale.pause).await;
}

/// The same with another file, but the holder dies in the middle.
pub(crate) async fn death_of_the_holder(stage: &mut Stage, show: &mut Show, version: &str) {
    let file = Stage::file(version);
    let upstream = stage.at_upstream(&file);
    let content = stage.content(&file);
    show.events.clear();
    let title = "2. Another cold file, and its holder is killed on the way";
    let mut watch = Watch::begin(stage, show, title, &file);
    let mut victim = None;
    watch
        .play(stage, show, |now| {
            let share = now.upstream_bytes as f64 / now.file_bytes as f64;
            victim = now.instances.iter().position(|i| i.role == Role::Holds);
            share >= DEATH_AT && victim.is_some()
        })
        .await;
    let Some(victim) = victim else {
        show.check(false, "no instance was seen to hold the lease");
        return;
    };
    stage.kill(victim).await;
    let died = Instant::now();
    let name = ['A', 'B', 'C'][victim];
    show.event(watch.crowd.started.elapsed(), &format!("kill -9 {name}"));
    watch.play(stage, show, |_| false).await;
    let noticed = upstream.begun().get(1).map(|at| at.duration_since(died));
    stage.fleet.stored(&file, &content).await;
    watch.look(stage, show).await;

    show.check(
        noticed.is_some_and(|after| after <= NOTICED_WITHIN),
        match noticed {
            Some(after) => format!(
                "{:.2} s after the holder's death another one fetched",
                after.as_secs_f64()
            ),
            None => "nobody took over from the dead holder".to_owned(),
        },
    );
    let own = watch.crowd.outcomes(victim);
    let cut = own.iter().filter(|outcome| !outcome.finished).count();
    show.check(
        cut == own.len(),
        format!("the dead one's own {cut} clients saw their connection break: nobody believes half a file"),
    );
    let others: Vec<Outcome> = (0..3)
        .filter(|&at| at != victim)
        .flat_map(|at| watch.crowd.outcomes(at).to_vec())
        .collect();
    let (good, all) = (whole(&others, &content), others.len());
    show.check(
        good == all,
        format!("{good} of {all} clients of the others got the file, every byte right"),
    );
    let requests = upstream.requests();
    show.check(
        requests == 2,
        format!("upstream requests: {requests}, one for each holder"),
    );
    return_of_the_dead(stage, show, victim, &file).await;
}

async fn return_of_the_dead(stage: &mut Stage, show: &mut Show, victim: usize, file: &str) {
    stage.revive(victim).await;
    let content = stage.content(file);
    let reply = client::get(stage.fleet.corral(victim).addr(), file).await;
    let requests = stage.at_upstream(file).requests();
    show.check(
        reply.whole_success() && reply.body == content && requests == 2,
        "started again, it serves the file from the store and asks nobody",
    );
    stage.fleet.leaves_nothing_behind().await;
    show.check(
        true,
        "no lease, flight, spool file or temporary object is left",
    );
}

/// How many have a whole 200 with exactly this content.
fn whole(outcomes: &[Outcome], content: &[u8]) -> usize {
    let hash = client::sha256(content);
    let good =
        |outcome: &&Outcome| outcome.finished && outcome.status == 200 && outcome.sha256 == hash;
    outcomes.iter().filter(good).count()
}
