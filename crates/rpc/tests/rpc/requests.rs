//! Requests, and the replies that they get.

use ringhold_rpc::Router;
use rmpv::Value;

use crate::client::{Wire, failure, read_all, reply, request, write};

#[test]
fn built_in_methods_answer() {
    let mut wire = Wire::new(Router::new());
    assert_eq!(wire.call("ping", vec![]), Ok("pong".into()));
    let params = vec![Value::from(1), "two".into(), Value::Nil];
    assert_eq!(
        wire.call("echo", params.clone()),
        Ok(Value::Array(params.clone()))
    );
    assert_eq!(wire.call("echo", vec![]), Ok(Value::Array(vec![])));
    for one in params {
        assert_eq!(wire.call("echo", vec![one.clone()]), Ok(one));
    }
}
