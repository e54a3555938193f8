//! What somebody sends to the API's socket, before anything is done.

use super::seen::Seen;
use crate::api::http::{parse, read};
use crate::api::routes::Call;

/// A request's bytes: however they arrive, they mean the same.
pub fn api(input: &[u8], seen: &mut Seen) {
    let whole = parse(input);
    seen.note_with(|| format!("{whole:?}"));
    let mut rest = input;
    let arrived = read(&mut rest, || false);
    match &whole {
        Ok(Some(request)) => assert_eq!(arrived.as_ref(), Ok(request)),
        Ok(None) => assert!(arrived.is_err()),
        Err(_) => {}
    }
    if let Ok(Some(request)) = whole
        && let Err(response) = Call::of(&request)
    {
        assert!((400..500).contains(&response.status));
        let mut bytes = Vec::new();
        response.write(&mut bytes).expect("a vector");
    }
}
