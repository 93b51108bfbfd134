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
    let params = params(&arguments.params)?;
    let options = Options {
        limits: Limits {
            frame_bytes: arguments.frame_bytes,
            ..Limits::default()
        },
        ..options(arguments.timeout)
    };
    let mut client = Client::connect(&arguments.address, options)?;
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

/// One msgpack array of all parameters.
fn params(texts: &[String]) -> Result<Vec<u8>, Failure> {
    if texts.iter().filter(|text| *text == "-").count() > 1 {
        return Err(Failure::usage(
            "only one parameter can be read from standard input",
        ));
    }
    let mut values = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let number = index + 1;
        let value = if text == "-" {
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
                    "parameter {number}, from standard input, is not usable JSON: {why}"
                ))
            })?
        } else {
            json::parse(text).map_err(|why| not_json(number, text, &why))?
        };
        values.push(value);
    }
    Ok(json::encode(&Value::Array(values)))
}

/// So many characters of a parameter that cannot be used are repeated.
const SHOWN_CHARS_MAX: usize = 80;

fn not_json(number: usize, text: &str, why: &str) -> Failure {
    let cut = text.char_indices().nth(SHOWN_CHARS_MAX);
    let shown = cut.map_or(text, |(end, _)| &text[..end]);
    let more = if cut.is_some() { "…" } else { "" };
    let mut message = format!("parameter {number}, {shown}{more}, is not usable JSON: {why}");
    let word = |c: char| c.is_alphanumeric() || "_-. /".contains(c);
    if cut.is_none() && text.starts_with(char::is_alphabetic) && text.chars().all(word) {
        message.push_str(&format!("; a string needs quotes: '\"{text}\"'"));
    }
    Failure::usage(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn each_argument_is_one_parameter() {
        assert_eq!(params(&[]).unwrap(), [0x90]);
        assert_eq!(params(&texts(&["1", "[2]"])).unwrap(), [0x92, 1, 0x91, 2]);
    }

    #[test]
    fn a_word_without_quotes_is_recognized() {
        let message = format!("{:?}", params(&texts(&["1", "hello"])).unwrap_err());
        assert!(message.contains("parameter 2, hello,"), "{message}");
        assert!(message.contains("needs quotes"), "{message}");
        let message = format!("{:?}", params(&texts(&["{1:2}"])).unwrap_err());
        assert!(!message.contains("needs quotes"), "{message}");
        assert!(params(&texts(&["-", "-"])).is_err());
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
