//! A list over all gateways, page by page: first our own sessions, then those of
//! each other gateway, which is asked for them. Who does not answer is done without.

use super::peers::session_request::{Asking, Wanted};
use super::peers::{Asker, Question, Siblings};
use crate::event_loop::context::Context;

use super::page::Piece;
use super::sessions::View;

/// How far a list is.
pub struct Pages {
    asking: Asking,
    /// The gateway whose turn it is; `None`: our own.
    whose: Option<usize>,
    /// That one is to say something.
    pub waits: bool,
    /// Gateways that did not answer.
    pub unheard: u32,
}

/// What a list goes on with.
pub enum Next {
    /// Some sessions of this gateway; `None`: of our own.
    Page(Option<usize>, Piece),
    /// Another gateway was asked, and answers before long, or does not.
    Asked,
    /// All have been asked.
    Over,
}

impl Pages {
    /// From the beginning, for this user.
    pub fn new(by: u32, wanted: Wanted) -> Self {
        Self { asking: Asking { by, from: 0, wanted }, whose: None, waits: false, unheard: 0 }
    }

    /// Who asks.
    pub fn by(&self) -> u32 {
        self.asking.by
    }

    /// The next page.
    pub fn next(
        &mut self,
        cx: &mut Context,
        siblings: &mut Siblings,
        view: View<'_>,
        asker: Asker,
    ) -> Next {
        if self.whose.is_none() {
            let piece = view.piece(cx, self.asking);
            return self.page(piece);
        }
        loop {
            let first = self.whose.unwrap_or_default();
            let Some(whom) = siblings.others().find(|number| *number >= first) else {
                return Next::Over;
            };
            self.whose = Some(whom);
            if siblings.ask(cx, whom, Question::Piece(self.asking), &[], asker) {
                self.waits = true;
                return Next::Asked;
            }
            self.skip();
        }
    }

    /// Another gateway has answered, or has not; `None`: it has said nothing.
    pub fn answered(&mut self, answer: Option<&[u8]>) -> Option<Next> {
        self.waits = false;
        match answer.and_then(Piece::decode) {
            Some(piece) => Some(self.page(piece)),
            None => {
                self.skip();
                None
            }
        }
    }

    fn page(&mut self, piece: Piece) -> Next {
        let whose = self.whose;
        match piece.next {
            Some(next) => self.asking.from = next,
            None => self.goes_on(),
        }
        Next::Page(whose, piece)
    }

    /// The gateway whose turn it was says no more.
    fn goes_on(&mut self) {
        self.asking.from = 0;
        self.whose = Some(self.whose.map_or(0, |whose| whose + 1));
    }

    fn skip(&mut self) {
        self.unheard += 1;
        self.goes_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_turn_it_is() {
        let mut pages = Pages::new(7, Wanted::List);
        let page = |next| Piece { next, body: b"1".to_vec() };
        let at = |pages: &Pages| (pages.whose, pages.asking.from);
        assert!(matches!(pages.page(page(Some(32))), Next::Page(None, _)));
        assert_eq!(at(&pages), (None, 32));
        assert!(matches!(pages.page(page(None)), Next::Page(None, _)));
        assert_eq!(at(&pages), (Some(0), 0));
        let answer = page(Some(7)).encode();
        assert!(matches!(pages.answered(Some(&answer)), Some(Next::Page(Some(0), _))));
        assert_eq!(at(&pages), (Some(0), 7));
        // It says no more of a sudden, and the next one nonsense.
        assert!(pages.answered(None).is_none() && pages.answered(Some(b"x")).is_none());
        assert_eq!((at(&pages), pages.unheard), ((Some(2), 0), 2));
        assert!(matches!(pages.answered(Some(&page(None).encode())), Some(Next::Page(Some(2), _))));
        assert_eq!((at(&pages), pages.unheard), ((Some(3), 0), 2));
    }
}
