//! What somebody sends to the API's socket, before anything is done.

use super::seen::Seen;
use crate::api::http::{Arriving, parse};
use crate::api::routes::Call;

/// A request's bytes: however they arrive, they mean the same.
pub fn api(input: &[u8], seen: &mut Seen) {
    let whole = parse(input);
    seen.note_with(|| format!("{whole:?}"));
    let mut arriving = Arriving::default();
    // In pieces: of one byte, then of two, and so on.
    let (mut rest, mut size) = (input, 1);
    let mut arrived = Ok(None);
    while !rest.is_empty() && arrived == Ok(None) {
        let (piece, others) = rest.split_at(size.min(rest.len()));
        (rest, size) = (others, size + 1);
        arrived = arriving.take(piece);
    }
    if let Ok(Some(request)) = &whole {
        assert_eq!(arrived.as_ref(), Ok(&Some(request.clone())));
    }
    if let Ok(Some(request)) = whole
        && let Err(response) = Call::of(&request)
    {
        assert!((400..500).contains(&response.status));
        assert!(!response.bytes().is_empty());
    }
}
