#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn key(text: &str) -> LeaseKey {
    LeaseKey::new(text).unwrap()
}

fn holder(address: Option<&str>) -> Holder {
    Holder {
        instance: Arc::from("corral-1"),
        address: address.map(Arc::from),
    }
}

// The layout is shared with other versions: these names and payloads must not change.
#[test]
fn the_layout_is_as_documented() {
    let (keys, key) = (Keys::new("corral"), key("example.com/m@v1.0.0.zip"));
    let token: LeaseToken = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap();
    assert_eq!(
        keys.name(KeyKind::Lease, key.as_str()),
        "corral:1:{b09}:lease:example.com/m@v1.0.0.zip"
    );
    assert_eq!(
        keys.forced(&key, &token),
        "corral:1:{b09}:forced:67e55044-10b1-426f-9247-bb680e5fe0c8"
    );
    assert_eq!(keys.channel(&key), "corral:1:{b09}:released");
    assert_eq!(keys.queue("due"), "corral:1:{b06}:queue:due");
    assert_eq!(keys.canary(7, "x"), "corral:1:{b07}:canary:x");
    assert_eq!(
        to_json(&LeaseValue::new(token, &holder(Some("10.0.0.1:7")), 6_000)),
        r#"{"v":1,"token":"67e55044-10b1-426f-9247-bb680e5fe0c8","instance":"corral-1","address":"10.0.0.1:7","ttl_ms":6000}"#
    );
    let progress = Progress {
        bytes: 7,
        total: None,
        waiters: 2,
    };
    assert_eq!(
        to_json(&ProgressValue::new(
            token,
            progress,
            Duration::from_micros(1_500)
        )),
        r#"{"v":1,"token":"67e55044-10b1-426f-9247-bb680e5fe0c8","bytes":7,"total":null,"waiters":2,"age_ms":2}"#
    );
    assert_eq!(
        event_json(&key, token, Outcome::Stored),
        r#"{"v":1,"key":"example.com/m@v1.0.0.zip","token":"67e55044-10b1-426f-9247-bb680e5fe0c8","outcome":"stored"}"#
    );
}

#[test]
fn a_newer_value_is_read_as_far_as_it_goes() {
    let token = LeaseToken::random();
    let newer = format!(r#"{{"v":2,"token":"{token}","instance":"i","shard":[1]}}"#);
    let read = LeaseValue::read(newer.as_bytes()).unwrap();
    assert_eq!(
        (read.value.token, &*read.value.holder.instance),
        (token, "i")
    );
    assert!(read.doubt.is_some());
    // Fields of other types than ours hide nothing but themselves.
    let other = format!(r#"{{"v":"two","token":"{token}","address":{{"host":"h"}}}}"#);
    let read = LeaseValue::read(other.as_bytes()).unwrap();
    assert_eq!((read.value.token, read.value.holder.address), (token, None));
    for bad in [&b""[..], b"1", b"{}", b"\xff", br#"{"token":"no uuid"}"#] {
        assert!(LeaseValue::read(bad).is_err());
    }
}

#[test]
fn another_grants_progress_is_none() {
    let (token, other) = (LeaseToken::random(), LeaseToken::random());
    let json = to_json(&ProgressValue::new(
        token,
        Progress::default(),
        Duration::ZERO,
    ));
    assert!(ProgressValue::read(json.as_bytes(), token).is_some());
    assert_eq!(ProgressValue::read(json.as_bytes(), other), None);
    assert_eq!(ProgressValue::read(b"\0", token), None);
}

#[test]
fn an_unknown_outcome_still_wakes() {
    let token = LeaseToken::random();
    let json = format!(r#"{{"v":9,"key":"k","token":"{token}","outcome":"handed_on","by":1}}"#);
    assert_eq!(
        read_event(json.as_bytes()).unwrap().outcome,
        Outcome::Abandoned
    );
    for bad in ["", "{}", r#"{"v":1,"key":"","token":"","outcome":""}"#] {
        assert!(read_event(bad.as_bytes()).is_err());
    }
}

proptest! {
    #[test]
    fn names_are_read_back_and_share_their_units_tag(text in "\\PC{1,60}") {
        let keys = Keys::new("p");
        for kind in [KeyKind::Lease, KeyKind::Record] {
            let name = keys.name(kind, &text);
            prop_assert_eq!(keys.text(kind, &name), Some(text.as_str()));
            prop_assert_eq!(keys.text(KeyKind::Progress, &name), None);
            prop_assert_eq!(Keys::new("q").text(kind, &name), None);
        }
        let key = key(&text);
        // Redis hashes what stands between the first `{` and the next `}`.
        let tag = |name: &str| name.split_once('{').unwrap().1.split_once('}').unwrap().0.to_owned();
        let names = [
            keys.name(KeyKind::Lease, &text),
            keys.name(KeyKind::Progress, &text),
            keys.name(KeyKind::TakeOver, &text),
            keys.forced(&key, &LeaseToken::random()),
            keys.channel(&key),
        ];
        prop_assert!(names.iter().all(|name| tag(name) == tag(&names[0])));
    }

    #[test]
    fn payloads_survive_the_wire(text in "\\PC{1,60}", instance in "\\PC{0,30}") {
        let token = LeaseToken::random();
        let value = LeaseValue::new(token, &Holder { instance: Arc::from(instance), address: None }, 1);
        let json = to_json(&value);
        prop_assert_eq!(LeaseValue::read(json.as_bytes()).unwrap().value, value);
        // What the scripts look for is there once, whatever the other fields say.
        let needle = format!("\"token\":\"{token}\"");
        prop_assert_eq!(json.matches(&needle).count(), 1);
        for outcome in Outcome::ALL {
            let event = ReleaseEvent { key: key(&text), token, outcome };
            prop_assert_eq!(read_event(event_json(&event.key, token, outcome).as_bytes()), Ok(event));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in any::<Vec<u8>>()) {
        let _ = LeaseValue::read(&bytes);
        let _ = read_event(&bytes);
        let _ = ProgressValue::read(&bytes, LeaseToken::random());
    }
}

#[test]
fn buckets_are_used_evenly() {
    let mut counts = [0_u32; BUCKETS];
    for n in 0..64_000 {
        counts[bucket(&format!("example.com/m{}@v1.{n}.0.zip", n % 7))] += 1;
    }
    assert!(
        counts.iter().all(|count| (800..1_200).contains(count)),
        "{counts:?}"
    );
}
