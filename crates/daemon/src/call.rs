//! The command `call`.

use std::io::Read;
use std::time::Duration;

use ringhold_client::{CallError, Client, Exceeded, Limits, Message, Options};
use rmpv::Value;

use crate::cli::Call;
use crate::exit::{Failure, print_on};
use crate::json;

/// Calls a method and prints its result.
pub(crate) fn call(arguments: &Call) -> Result<(), Failure> {
    reads_input_once(arguments)?;
    let first = first(&arguments.first)?;
    let params = params(&arguments.params)?;
    let options = Options {
        limits: Limits {
            frame_bytes: arguments.frame_bytes,
            ..Limits::default()
        },
        ..options(arguments.timeout)
    };
    let mut client = Client::connect(&arguments.address, options)?;
    for (method, params) in first {
        let called = client.call_raw(method, &params);
        called.map_err(|error| ended(error).of(method))?;
    }
    if arguments.notify {
        client.notify_raw(&arguments.method, &params)?;
        // Closing at once could cut off what the server has not read yet.
        return Ok(client.finish()?);
    }
    let result = client.call_raw(&arguments.method, &params).map_err(ended)?;
    let result = json::print_encoded(&result).map_err(|why| {
        Failure::unreachable(format!("the result cannot be shown as JSON: {why}"))
    })?;
    let is_read = print_on(&result)?;
    match arguments.follow && is_read {
        true => follow(&mut client),
        false => Ok(()),
    }
}

/// Prints the notifications that come, one line each, until the server ends the connection or nobody reads them any more.
fn follow(client: &mut Client) -> Result<(), Failure> {
    client.set_call_timeout(None);
    loop {
        match client.next_message() {
            Ok(Message::Notification(notification)) => {
                let params =
                    rmpv::decode::read_value(&mut &notification.params[..]).map_err(|why| {
                        Failure::unreachable(format!(
                            "a notification cannot be shown as JSON: {why}"
                        ))
                    })?;
                let method = Value::from(notification.method());
                if !print_on(&json::print(&Value::Map(vec![(method, params)])))? {
                    return Ok(());
                }
            }
            Ok(Message::Request(request)) => {
                let error = json::encode(&Value::from("ringhold call answers no requests"));
                client.respond(request.id, Err(&error))?;
            }
            // There is none that anybody waits for.
            Ok(Message::Reply(_)) => {}
            Err(CallError::Closed { .. }) => return Ok(()),
            Err(error) => return Err(ended(error)),
        }
    }
}

/// Why nothing more comes.
fn ended(error: CallError) -> Failure {
    match error {
        // Who refuses a message closes, and has no way to say why.
        CallError::Closed { .. } | CallError::Cut { .. } => {
            Failure::unreachable(format!("{error}; the log of the server may say why"))
        }
        CallError::Limit {
            exceeded: Exceeded::FrameBytes(_),
            ..
        } => Failure::unreachable(format!("{error}; --frame-bytes raises the limit")),
        error => error.into(),
    }
}

/// How a client of these commands behaves: one limit for everything.
pub(crate) fn options(timeout: Duration) -> Options {
    let limit = (!timeout.is_zero()).then_some(timeout);
    Options {
        connect_timeout: limit,
        call_timeout: limit,
        ..Options::default()
    }
}

fn reads_input_once(arguments: &Call) -> Result<(), Failure> {
    let first = arguments.first.iter().skip(1).step_by(2);
    let from_input = first.chain(&arguments.params).filter(|text| *text == "-");
    match from_input.count() {
        0 | 1 => Ok(()),
        _ => Err(Failure::usage(
            "only one parameter can be read from standard input",
        )),
    }
}

/// The calls before, by turns a method and the JSON array of its parameters: each as a method and one msgpack array.
fn first(texts: &[String]) -> Result<Vec<(&str, Vec<u8>)>, Failure> {
    let calls = texts.as_chunks().0.iter();
    let calls = calls.map(|[method, params]| {
        // What it says is not repeated: it may be a secret.
        let no_array = |why: &str| {
            Failure::usage(format!(
                "the array of parameters of {method} is {why}; one parameter that is a string is written as '[\"token\"]'"
            ))
        };
        let params = match params.as_str() {
            "-" => value(&format!("the array of parameters of {method}"), params)?,
            text => json::parse(text).map_err(|why| no_array(&format!("not usable JSON: {why}")))?,
        };
        match params {
            params @ Value::Array(_) => Ok((method.as_str(), json::encode(&params))),
            _ => Err(no_array("no array")),
        }
    });
    calls.collect()
}

/// One msgpack array of all parameters.
fn params(texts: &[String]) -> Result<Vec<u8>, Failure> {
    let values = texts.iter().zip(1..);
    let values = values.map(|(text, number)| value(&format!("parameter {number}"), text));
    let values: Result<_, _> = values.collect();
    Ok(json::encode(&Value::Array(values?)))
}

/// What an argument says that is JSON, or `-`.
fn value(what: &str, text: &str) -> Result<Value, Failure> {
    if text != "-" {
        return json::parse(text).map_err(|why| not_json(what, text, &why));
    }
    let mut text = Vec::new();
    std::io::stdin()
        .read_to_end(&mut text)
        .map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
    let value = match str::from_utf8(&text) {
        Ok(text) => json::parse(text),
        Err(error) => Err(error.to_string()),
    };
    value.map_err(|why| {
        Failure::usage(format!(
            "{what}, from standard input, is not usable JSON: {why}"
        ))
    })
}

/// So many characters of a parameter that cannot be used are repeated.
const SHOWN_CHARS_MAX: usize = 80;

fn not_json(what: &str, text: &str, why: &str) -> Failure {
    let cut = text.char_indices().nth(SHOWN_CHARS_MAX);
    let shown = cut.map_or(text, |(end, _)| &text[..end]);
    let more = if cut.is_some() { "…" } else { "" };
    let mut message = format!("{what}, {shown}{more}, is not usable JSON: {why}");
    let word = |c: char| c.is_alphanumeric() || "_-. /".contains(c);
    if cut.is_none() && text.starts_with(char::is_alphabetic) && text.chars().all(word) {
        message.push_str(&format!("; a string needs quotes: '\"{text}\"'"));
    }
    Failure::usage(message)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn each_argument_is_one_parameter() {
        assert_eq!(params(&[]).unwrap(), [0x90]);
        assert_eq!(params(&texts(&["1", "[2]"])).unwrap(), [0x92, 1, 0x91, 2]);
    }

    #[test]
    fn what_is_called_first_has_an_array_of_parameters() {
        let calls = texts(&["log_in", "[1]", "choose", "[]"]);
        let expected = [("log_in", vec![0x91, 1]), ("choose", vec![0x90])];
        assert_eq!(first(&calls).unwrap(), expected);
        for (params, why) in [("1", "of log_in is no array"), ("[", "is not usable JSON")] {
            let message = format!("{:?}", first(&texts(&["log_in", params])).unwrap_err());
            assert!(message.contains(why), "{message}");
        }
        for (params, secret) in [
            ("hunter2", "hunter2"),
            ("[12345678901234567890123]", "1234"),
        ] {
            let message = format!("{:?}", first(&texts(&["log_in", params])).unwrap_err());
            assert!(!message.contains(secret), "{message}");
        }
    }

    #[test]
    fn one_is_read_from_standard_input() {
        for (arguments, is_one) in [
            (&["a:1", "get", "-", "5"][..], true),
            (&["a:1", "get", "-", "-"], false),
            (&["a:1", "get", "-", "--first", "log_in", "-"], false),
            (
                &["a:1", "get", "--first", "log_in", "-", "--first", "-", "[]"],
                true,
            ),
        ] {
            let arguments = ["ringhold", "call"].iter().chain(arguments);
            let Some(Command::Call(call)) = Cli::try_parse_from(arguments).unwrap().command else {
                panic!("it is a call");
            };
            assert_eq!(reads_input_once(&call).is_ok(), is_one, "{call:?}");
        }
    }

    #[test]
    fn a_word_without_quotes_is_recognized() {
        let message = format!("{:?}", params(&texts(&["1", "hello"])).unwrap_err());
        assert!(message.contains("parameter 2, hello,"), "{message}");
        assert!(message.contains("needs quotes"), "{message}");
        let message = format!("{:?}", params(&texts(&["{1:2}"])).unwrap_err());
        assert!(!message.contains("needs quotes"), "{message}");
    }

    #[test]
    fn a_long_one_is_not_repeated_in_full() {
        let shown = format!("{:?}", params(&texts(&[&"ä".repeat(80)])).unwrap_err());
        assert!(shown.contains(&format!("parameter 1, {}, is not", "ä".repeat(80))));
        assert!(shown.contains("needs quotes"), "{shown}");
        let message = format!("{:?}", params(&texts(&[&"ä".repeat(50_000)])).unwrap_err());
        let begin = format!("parameter 1, {}…, is not usable JSON: ", "ä".repeat(80));
        assert!(message.contains(&begin) && message.len() < 500, "{message}");
    }
}
