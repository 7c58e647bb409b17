//! The spool's limits, and a disk that is full.

use super::*;
use crate::testing::DiskFaults;

fn limit(name: &str) -> String {
    format!("corral_limit_reached_total{{limit=\"{name}\"}}")
}

fn overloaded(error: &Error, name: &str) {
    assert!(
        matches!(error, Error::Overloaded { limit } if *limit == name),
        "{error:?}"
    );
}

// fault: 34
#[tokio::test]
async fn a_disk_with_little_left_refuses_large_fills_and_serves_small_ones() {
    let (scene, _clock) = scene();
    let builder = scene
        .instance("a")
        .spool_limits(|limits| limits.free_bytes_min = u64::MAX / 2);
    let instance = builder.start();
    let error = instance.read(&key(ZIP_PATH)).await.unwrap_err();
    overloaded(&error, "spool.free_bytes_min");
    assert!(error.to_string().contains("spool.free_bytes_min"));
    instance.settled().await;
    assert_eq!(instance.count(&limit("spool.free_bytes_min")), 1);
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    instance.settled().await;
    assert!(records_of(&scene).await.is_empty());
    scene.no_leases().await;
    instance.warmer.sample_flights();
    assert_eq!(instance.count("corral_spool_bytes"), 0);
    assert!(instance.count("corral_spool_free_bytes") > 0);
}

// fault: 34
#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_cuts_readers_and_remembers_nothing() {
    let (scene, _clock) = scene();
    let disk = DiskFaults::default();
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).held_at(MIB / 3, &gate);
    scene.upstream.serve(ZIP_PATH, reply);
    let instance = Arc::new(scene.instance("a").disk(&disk).start());
    let readers = crowd(&instance, &key(ZIP_PATH), 5).await;
    gate.reached(1).await;
    disk.full_after(64 * 1024);
    gate.open();
    for end in ends(readers).await {
        assert_eq!(end.unwrap_err().kind(), ErrorKind::Storage);
    }
    instance.settled().await;
    scene.no_leases().await;
    assert!(records_of(&scene).await.is_empty());
    assert!(scene.store.lookup(ZIP_PATH).await.unwrap().is_none());
    instance.warmer.sample_flights();
    assert_eq!(instance.count("corral_spool_bytes"), 0);
    disk.heal();
    assert!(instance.read(&key(ZIP_PATH)).await.unwrap() == zip(MIB));
}

// fault: 34
#[tokio::test]
async fn waiters_get_an_error_when_the_disk_is_full_and_nothing_is_streamed() {
    let (scene, _clock) = scene();
    let disk = DiskFaults::default();
    disk.full_after(MIB as u64 / 2);
    let builder = scene.instance("a").disk(&disk);
    let builder = builder.config(|config| {
        config.stream = false;
        config.retries = 0;
    });
    let instance = Arc::new(builder.start());
    let error = instance.read(&key(ZIP_PATH)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    instance.settled().await;
    scene.no_leases().await;
    assert!(records_of(&scene).await.is_empty());
    instance.warmer.sample_flights();
    assert_eq!(instance.count("corral_spool_bytes"), 0);
}

// fault: 34
#[tokio::test]
async fn kept_bytes_leave_room_for_new_fills() {
    let (scene, _clock) = scene();
    let faults = Faults::new();
    let body_of = |number| module_zip(&format!("example.com/m{number}"), "v1.0.0", MIB);
    let size = body_of(0).len() as u64;
    let builder = scene.instance("a").hot(0, 0).spool(2 * size);
    let instance = builder.store(scene.store.with_faults(&faults)).start();
    faults.inject(Operation::Create, .., Fault::Refuse);
    let path = |number: usize| format!("example.com/m{number}/@v/v1.0.0.zip");
    for number in 0..3 {
        scene
            .upstream
            .serve(&path(number), Reply::body(body_of(number)));
        // Whatever is kept, the next large file still comes through.
        instance.read(&key(&path(number))).await.unwrap();
        instance.settled().await;
    }
    assert_eq!(instance.count(&kept_total("kept")), 1);
    assert_eq!(instance.count(&kept_total("full")), 2);
    let fetched_again = JobId::new(key(&path(2)).unit()).unwrap();
    let job = scene.queue.get(&fetched_again).await.unwrap().unwrap();
    assert_eq!(&*job.info.kind, "fetch");
}
