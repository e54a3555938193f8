//! As much of HTTP/1.1 as an API on a Unix socket takes: one request a connection.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use httparse::{EMPTY_HEADER, Header, Status as Parsed};

/// Longest head of a request or response, and longest body of a request, in bytes.
const HEAD_MAX: usize = 16 * 1024;
const BODY_MAX: usize = 64 * 1024;
/// Longest response that a client takes.
const RESPONSE_MAX: u64 = 64 << 20;
const HEADERS_MAX: usize = 64;
/// How long a client may take for its request.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// As GET.
    pub method: String,
    /// Without what follows a question mark.
    pub path: String,
    /// What follows the head.
    pub body: Vec<u8>,
}

/// A response, or why there is no request: its status then, and a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// As 200.
    pub status: u16,
    /// The body's type.
    pub content_type: &'static str,
    /// What follows the head.
    pub body: Vec<u8>,
}

/// What is wrong with a request: a status, and a message.
pub type Refusal = (u16, &'static str);

/// Reads a request from its first bytes; none if it isn't complete yet.
pub fn parse(bytes: &[u8]) -> Result<Option<Request>, Refusal> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(Parsed::Complete(length)) if length <= HEAD_MAX => length,
        Ok(Parsed::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Err((431, "the request's head is too long"));
        }
        Err(_) => return Err((400, "this is no HTTP request")),
    };
    let body_length = body_length(head.headers)?;
    let Some(body) = bytes.get(length..length + body_length) else {
        return Ok(None);
    };
    let path = head.path.unwrap_or_default();
    Ok(Some(Request {
        method: head.method.unwrap_or_default().into(),
        path: path.split('?').next().unwrap_or_default().into(),
        body: body.into(),
    }))
}

fn body_length(headers: &[Header]) -> Result<usize, Refusal> {
    let find = |name: &str| headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
    if find("transfer-encoding").is_some() {
        return Err((411, "give the body's Content-Length"));
    }
    let Some(header) = find("content-length") else {
        return Ok(0);
    };
    let text = std::str::from_utf8(header.value).unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(length) if digits && length <= BODY_MAX => Ok(length),
        _ if digits => Err((413, "the request's body is too long")),
        _ => Err((400, "Content-Length is no number")),
    }
}

/// Reads a request; `stopped` ends that early.
pub fn read(from: &mut impl Read, stopped: impl Fn() -> bool) -> Result<Request, Refusal> {
    let limit = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Err((400, "the request is not complete")),
            Ok(n) => bytes.extend(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err((408, "the request did not come in time")),
        }
        if let Some(request) = parse(&bytes)? {
            return Ok(request);
        }
        if stopped() || Instant::now() > limit {
            return Err((408, "the request did not come in time"));
        }
    }
}

/// Reads what is left of a request that was refused, or the client would lose the response.
pub fn read_rest(from: &mut impl Read, stopped: impl Fn() -> bool) {
    let limit = Instant::now() + PATIENCE;
    let mut buffer = [0; 4096];
    while !stopped() && Instant::now() < limit && from.read(&mut buffer).is_ok_and(|n| n > 0) {}
}

impl Response {
    /// Writes it as the connection's last word.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let reason = match self.status {
            200 => "OK",
            202 => "Accepted",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            410 => "Gone",
            500.. => "Server Error",
            _ => "Bad Request",
        };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len()
        )
        .into_bytes();
        bytes.extend(&self.body);
        to.write_all(&bytes)
    }
}

/// Sends a request and reads the response: its status and body.
pub fn ask(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    body: &[u8],
) -> io::Result<(u16, Vec<u8>)> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: vmm\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut bytes = Vec::new();
    stream.take(RESPONSE_MAX).read_to_end(&mut bytes)?;
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    match (head.parse(&bytes), head.code) {
        (Ok(Parsed::Complete(length)), Some(status)) => Ok((status, bytes.split_off(length))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_complete_with_its_body() {
        let text = b"POST /v1/set?x=1 HTTP/1.1\r\nHost: a\r\ncontent-length: 4\r\n\r\n{ }\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{end}");
        }
        let request = parse(text).unwrap().unwrap();
        assert_eq!((&*request.method, &*request.path), ("POST", "/v1/set"));
        assert_eq!(request.body, b"{ }\n");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD_MAX));
        let many = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(HEADERS_MAX + 1));
        for (text, status) in [
            ("\0", 400),
            ("GET\r\n\r\n", 400),
            (&long, 431),
            (&many, 431),
            ("GET / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413),
            (
                "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                413,
            ),
            ("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nContent-Length:\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().0, status, "{text:.60}");
        }
    }

    #[test]
    fn who_stops_in_the_midst_is_told() {
        let mut half = &b"GET / HT"[..];
        assert_eq!(read(&mut half, || false).unwrap_err().0, 400);
        let mut whole = &b"GET / HTTP/1.0\r\n\r\n"[..];
        assert_eq!(read(&mut whole, || false).unwrap().path, "/");
    }
}
