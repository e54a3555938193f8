//! As much of HTTP/1.1 as an API on a Unix socket takes: one request a connection.

use std::io;

use httparse::{EMPTY_HEADER, Header, Status as Parsed};

/// Longest head of a request or response, and longest body of a request, in bytes.
const HEAD_MAX: usize = 16 * 1024;
const BODY_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;

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

/// A request of which not everything is there yet.
#[derive(Debug, Default)]
pub struct Arriving(Vec<u8>);

impl Arriving {
    /// Takes more bytes; returns the request when they complete it.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Request>, Refusal> {
        self.0.extend(bytes);
        parse(&self.0)
    }
}

impl Response {
    /// Its bytes, as the connection's last word.
    pub fn bytes(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            202 => "Accepted",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
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
        bytes
    }
}

/// A request's bytes.
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: vmm\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Status and body of a response.
pub fn parse_response(bytes: &[u8]) -> io::Result<(u16, &[u8])> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    match (head.parse(bytes), head.code) {
        (Ok(Parsed::Complete(length)), Some(status)) => Ok((status, &bytes[length..])),
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
    fn a_request_may_come_in_pieces() {
        let mut arriving = Arriving::default();
        for piece in ["GET /", "v1/in", "fo HTTP/1.0\r\n"] {
            assert_eq!(arriving.take(piece.as_bytes()), Ok(None));
        }
        assert_eq!(arriving.take(b"\r\n").unwrap().unwrap().path, "/v1/info");
        let mut wrong = Arriving::default();
        assert_eq!(wrong.take(b"\0").unwrap_err().0, 400);
    }
}
