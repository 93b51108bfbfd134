//! What is kept for a connection when its process is replaced.

use std::cell::RefCell;
use std::rc::Rc;

use ringhold_rpc::{Fault, Notifier, Router};
use serde::{Deserialize, Serialize};

use crate::client::{Wire, notification, reply, request};

/// Which topics a connection reads.
#[derive(Default, Serialize, Deserialize)]
struct Topics(Vec<String>);

#[derive(Default, Serialize, Deserialize)]
struct Login {
    name: String,
}

type Readers = Rc<RefCell<Vec<(String, Notifier)>>>;

/// Readers and their topics, who is logged in, and a value of another type, which is not resumed.
fn router(readers: &Readers) -> Router {
    let [joined, known, told] = [(); 3].map(|()| readers.clone());
    Router::new()
        .method_with("subscribe", move |context, topic: String| {
            let (topics, notifier) = context.subscription::<Topics>();
            topics.0.push(topic.clone());
            joined.borrow_mut().push((topic, notifier));
            Ok(topics.0.len())
        })
        .method("publish", move |topic: String| {
            for (read, notifier) in told.borrow().iter() {
                if *read == topic {
                    notifier.notify("event", &topic)?;
                }
            }
            Ok(())
        })
        .resume("topics", move |resumed, topics: &mut Topics| {
            if topics.0.iter().any(|topic| topic == "gone") {
                return Err(Fault::new("there is no topic \"gone\" any more"));
            }
            assert_eq!(resumed.peer().socket_name(), "test");
            for topic in &topics.0 {
                let reader = (topic.clone(), resumed.notifier());
                assert_eq!(reader.1.connection(), resumed.peer().id());
                let who = resumed.peer().credentials()?.map(|who| who.pid);
                assert_eq!(who, Some(Some(std::process::id())));
                known.borrow_mut().push(reader);
            }
            Ok(())
        })
        .method_with("login", |context, name: String| {
            context.data::<Login>().name = name;
            Ok(())
        })
        .method_with("name", |context, ()| {
            Ok(context.data::<Login>().name.clone())
        })
        .resume("login", |_, login: &mut Login| {
            login.name.push('!');
            Ok(())
        })
        .method_with("remember", |context, value: u64| {
            *context.data() = value;
            Ok(())
        })
}

fn connect(calls: &[(&str, &str)]) -> Wire {
    let mut wire = Wire::new(router(&Readers::default()));
    for (method, param) in calls {
        wire.call(method, vec![(*param).into()]).unwrap();
    }
    wire
}

/// Why a connection with these calls behind it does not go on in a process with these methods.
fn ends(calls: &[(&str, &str)], successor: Router) -> String {
    let wire = connect(calls).hand_over(successor);
    assert!(!wire.is_open());
    assert_eq!(wire.exchange.counters().unrestored, 1);
    match &wire.ends()[..] {
        [_, why] => why.clone(),
        ends => panic!("it ends here, and there: {ends:?}"),
    }
}

#[test]
fn subscriptions_and_other_data_go_on() {
    let mut wire = connect(&[("subscribe", "a"), ("login", "me"), ("subscribe", "b")]);
    for round in 1..=3 {
        let readers = Readers::default();
        wire = wire.hand_over(router(&readers));
        assert_eq!(readers.borrow().len(), 2, "each subscription is renewed");
        for topic in ["a", "b"] {
            assert_eq!(
                wire.send(request(1, "publish", vec![topic.into()])),
                [
                    reply(1, rmpv::Value::Nil),
                    notification("event", vec![topic.into()])
                ]
            );
        }
        // What `resume` made of it is what is kept.
        let name = format!("me{}", "!".repeat(round));
        assert_eq!(wire.call("name", vec![]), Ok(name.into()));
    }
    assert_eq!(wire.call("subscribe", vec!["c".into()]), Ok(3.into()));
    let readers = Readers::default();
    let wire = wire.hand_over(router(&readers));
    let topics: Vec<String> = readers.borrow().iter().map(|(t, _)| t.clone()).collect();
    assert_eq!(topics, ["a", "b", "c"]);
    assert_eq!(wire.ends().len(), 4);
}

#[test]
fn a_connection_is_closed_if_a_part_of_what_is_kept_would_be_lost() {
    let mut wire = connect(&[("subscribe", "a")]);
    wire.call("remember", vec![7.into()]).unwrap();
    let wire = wire.hand_over(router(&Readers::default()));
    assert!(!wire.is_open());
    assert_eq!(wire.ends(), ["the server stops"]);

    // A notifier that no data stands for.
    let readers = Readers::default();
    let kept = readers.clone();
    let mut wire = Wire::new(router(&readers).method_with("watch", move |context, ()| {
        kept.borrow_mut().push(("w".into(), context.notifier()));
        Ok(())
    }));
    wire.call("subscribe", vec!["a".into()]).unwrap();
    wire.call("watch", vec![]).unwrap();
    assert!(!wire.hand_over(router(&Readers::default())).is_open());

    // Data that a subscription is made of, and that nobody resumes.
    let mut wire = Wire::new(Router::new().method_with("subscribe", |context, ()| {
        context.subscription::<Topics>();
        Ok(())
    }));
    wire.call("subscribe", vec![]).unwrap();
    assert!(!wire.hand_over(router(&Readers::default())).is_open());
}

#[test]
fn a_successor_that_cannot_resume_says_why() {
    let other = Router::new().resume("login", |_, _: &mut Login| Ok(()));
    let subscribed = [("subscribe", "a")];
    assert_eq!(
        ends(&subscribed, other),
        "this version of the program does not resume the data \"topics\""
    );
    assert_eq!(
        ends(&[("subscribe", "gone")], router(&Readers::default())),
        "the data \"topics\" is not resumed: there is no topic \"gone\" any more"
    );
    let other = Router::new().resume("topics", |_, _: &mut u64| Ok(()));
    let why = ends(&subscribed, other);
    let beginning = "the data \"topics\" is not resumed: ";
    assert!(why.starts_with(beginning), "{why}");
    assert!(why.len() > beginning.len(), "{why}");
}

#[test]
fn another_version_may_have_other_fields() {
    #[derive(Default, Serialize, Deserialize, Debug, PartialEq)]
    struct Newer {
        #[serde(default)]
        rights: Vec<String>,
        name: String,
    }
    let seen = Rc::new(RefCell::new(Vec::new()));
    let noted = seen.clone();
    let newer = Router::new().resume("login", move |_, login: &mut Newer| {
        noted.borrow_mut().push(std::mem::take(login));
        login.rights.push("all".into());
        login.name = "you".into();
        Ok(())
    });
    let wire = connect(&[("login", "me")]).hand_over(newer);
    let expected = Newer {
        rights: vec![],
        name: "me".into(),
    };
    assert_eq!(*seen.borrow(), [expected]);
    let mut older = wire.hand_over(router(&Readers::default()));
    assert_eq!(older.call("name", vec![]), Ok("you!".into()));
}

#[test]
fn what_cannot_be_serialized_costs_its_connection() {
    #[derive(Default, Deserialize)]
    struct Broken;
    impl Serialize for Broken {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("out of ideas"))
        }
    }
    let router = || {
        Router::new()
            .method_with("break", |context, ()| {
                context.data::<Broken>();
                Ok(())
            })
            .resume("broken", |_, _: &mut Broken| Ok(()))
    };
    let mut wire = Wire::new(router());
    wire.call("break", vec![]).unwrap();
    assert!(!wire.hand_over(router()).is_open());
}

#[test]
fn what_is_kept_is_dropped_when_the_connection_ends_or_goes() {
    #[derive(Default)]
    struct Kept(Option<Rc<()>>);
    let alive = Rc::new(());
    let router = || {
        let alive = alive.clone();
        Router::new().method_with("keep", move |context, ()| {
            context.data::<Kept>().0 = Some(alive.clone());
            Ok(())
        })
    };
    for goes in [false, true] {
        let mut wire = Wire::new(router());
        wire.call("keep", vec![]).unwrap();
        // The test's, the router's and the connection's.
        assert_eq!(Rc::strong_count(&alive), 3);
        if goes {
            wire = wire.hand_over(Router::new());
            assert_eq!(Rc::strong_count(&alive), 1);
        } else {
            wire.exchange.end(wire.client);
            assert_eq!(Rc::strong_count(&alive), 2);
        }
        assert!(!wire.is_open());
    }
}

#[test]
#[should_panic = "two types are resumed as \"a\""]
fn a_name_stands_for_one_type() {
    let _ = Router::new()
        .resume("a", |_, _: &mut u64| Ok(()))
        .resume("a", |_, _: &mut u32| Ok(()));
}

#[test]
#[should_panic = "the type of \"b\" is resumed as \"a\" already"]
fn a_type_has_one_name() {
    let _ = Router::new()
        .resume("a", |_, _: &mut u64| Ok(()))
        .resume("b", |_, _: &mut u64| Ok(()));
}
