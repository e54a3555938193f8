//! What each request does.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::{Request, Response};
use super::types::{Ended, Failure, StopRequest};
use crate::exit::End;
use crate::observe::Observer;
use crate::observe::types::{Info, State};
use crate::{Error, Kind, Result};

const JSON: &str = "application/json";

/// What comes of a request at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This answer.
    Answer(Response),
    /// None: it has to wait.
    Waits(For),
}

/// What an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// That a machine that is being paused stands still.
    Rest,
    /// The machine's end.
    End,
}

/// A method of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// GET /v1/info
    Info,
    /// GET /v1/stat
    Stat,
    /// GET /v1/end
    End,
    /// POST /v1/pause
    Pause,
    /// POST /v1/resume
    Resume,
    /// POST /v1/stop
    Stop(StopRequest),
}

impl Call {
    /// Finds what a request asks for; the error is the response to it.
    pub fn of(request: &Request) -> std::result::Result<Self, Response> {
        let get = ["/v1/info", "/v1/stat", "/v1/end"];
        let post = ["/v1/pause", "/v1/resume", "/v1/stop"];
        let path = request.path.as_str();
        let wanted = match path {
            _ if get.contains(&path) => "GET",
            _ if post.contains(&path) => "POST",
            _ => {
                return Err(failure(
                    404,
                    &format!("there is no {path}: see docs/vmm-api.json"),
                ));
            }
        };
        if request.method != wanted {
            return Err(failure(405, &format!("{path} takes {wanted}")));
        }
        Ok(match path {
            "/v1/info" => Self::Info,
            "/v1/stat" => Self::Stat,
            "/v1/end" => Self::End,
            "/v1/pause" => Self::Pause,
            "/v1/resume" => Self::Resume,
            _ => Self::Stop(body(request)?),
        })
    }

    /// Does it.
    pub fn run(self, observer: &Observer) -> Outcome {
        let live = observer.live();
        let waits = match self {
            Self::Pause => live.pause().map(|()| For::Rest),
            Self::End => Ok(For::End),
            _ => return Outcome::Answer(answer(self.run_at_once(observer))),
        };
        match waits {
            Ok(what) => Outcome::Waits(what),
            Err(error) => Outcome::Answer(answer(Err(error))),
        }
    }

    /// Does what need not wait.
    fn run_at_once(self, observer: &Observer) -> Result<Response> {
        let live = observer.live();
        match self {
            Self::Info | Self::Pause | Self::End => {}
            Self::Stat => return json(200, &observer.stat()),
            Self::Resume => live.control.resume(),
            Self::Stop(request) => {
                // Before: a guest that is quick takes its threads with it.
                let info = Info {
                    state: State::Stopping,
                    ..observer.info()
                };
                let seconds = request.timeout_s.map(|s| Duration::from_secs(s.into()));
                live.stop(seconds.unwrap_or(live.stop_timeout), End::Stopped);
                return json(202, &info);
            }
        }
        json(200, &observer.info())
    }
}

/// The answer to a pause, once it is known what came of it.
pub fn rest(observer: &Observer, done: Result<()>) -> Response {
    answer(done.and_then(|()| json(200, &observer.info())))
}

/// The answer to who waits for the machine's end.
pub fn ended(end: End) -> Response {
    let status = end.status();
    answer(json(200, &Ended { status }))
}

fn answer(done: Result<Response>) -> Response {
    done.unwrap_or_else(|error| {
        let kind = error.kind();
        refusal(status(kind), kind, &error.to_string())
    })
}

/// The request's body; an empty one is an object without fields.
fn body<T: DeserializeOwned>(request: &Request) -> std::result::Result<T, Response> {
    let text: &[u8] = match &*request.body {
        [] => b"{}",
        body => body,
    };
    serde_json::from_slice(text).map_err(|error| failure(400, &error.to_string()))
}

fn json(status: u16, value: &impl Serialize) -> Result<Response> {
    let mut body = serde_json::to_vec(value).map_err(Error::system("write a response"))?;
    body.push(b'\n');
    Ok(Response {
        status,
        content_type: JSON,
        body,
    })
}

/// The status that tells an HTTP client the same as `kind`.
fn status(kind: Kind) -> u16 {
    match kind {
        Kind::Usage => 400,
        Kind::Refused => 403,
        Kind::Busy => 409,
        Kind::Gone => 410,
        Kind::Host => 500,
    }
}

/// A response to what is no request of this API.
pub fn failure(status: u16, message: &str) -> Response {
    refusal(status, Kind::Usage, message)
}

fn refusal(status: u16, code: Kind, message: &str) -> Response {
    let failure = Failure {
        code,
        error: message.into(),
    };
    let mut body = serde_json::to_vec(&failure).unwrap_or_default();
    body.push(b'\n');
    Response {
        status,
        content_type: JSON,
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, path: &str, body: &str) -> std::result::Result<Call, u16> {
        let request = Request {
            method: method.into(),
            path: path.into(),
            body: body.into(),
        };
        Call::of(&request).map_err(|response| response.status)
    }

    #[test]
    fn requests_are_checked_before_anything_is_done() {
        assert_eq!(call("GET", "/v1/info", ""), Ok(Call::Info));
        assert_eq!(call("GET", "/v1/end", ""), Ok(Call::End));
        assert_eq!(
            call("POST", "/v1/stop", ""),
            Ok(Call::Stop(StopRequest::default()))
        );
        assert_eq!(call("POST", "/v1/info", ""), Err(405));
        assert_eq!(call("GET", "/v1/pause", ""), Err(405));
        assert_eq!(call("GET", "/v2/info", ""), Err(404));
        for bad in ["{\"timeout_s\": -1}", "{\"timeout\": 1}", "[", "7"] {
            assert_eq!(call("POST", "/v1/stop", bad), Err(400), "{bad}");
        }
        // What is done from outside.
        assert_eq!(call("POST", "/v1/set", ""), Err(404));
        assert_eq!(call("GET", "/metrics", ""), Err(404));
    }
}
