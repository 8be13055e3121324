//! The cursor of a list over all gateways: first this gateway's pages, then those of each
//! peer, on request. A peer that does not reply in time is left out.

use super::peers::peer_request::{PageKind, PageRequest};
use super::peers::{PeerRequest, Peers, Requester};
use crate::event_loop::context::Context;

use super::gateway_sessions::GatewaySessions;
use super::session_page::Page;

/// The cursor of a list over all gateways.
pub struct PageCursor {
    /// The request for the next page.
    pub page_request: PageRequest,
    /// The gateway of the next page; `None`: this one.
    gateway: Option<usize>,
    /// A reply of that gateway is pending.
    pub waits: bool,
    /// Gateways that have not replied in time.
    pub unanswered: u32,
}

/// The next step of a list.
pub enum NextPage {
    /// A page of a gateway; `None`: of this one.
    Page(Option<usize>, Page),
    /// A page was requested of a peer.
    Requested,
    /// The list is complete.
    Over,
}

impl PageCursor {
    /// A cursor at the start, for this user.
    pub fn new(by: u32, kind: PageKind) -> Self {
        Self {
            page_request: PageRequest { by, from: 0, kind },
            gateway: None,
            waits: false,
            unanswered: 0,
        }
    }

    /// The next page.
    pub fn next(
        &mut self,
        cx: &mut Context,
        peers: &mut Peers,
        view: GatewaySessions<'_>,
        requester: Requester,
    ) -> NextPage {
        if self.gateway.is_none() {
            let page = view.page(cx, self.page_request);
            return self.page(page);
        }
        loop {
            let first = self.gateway.unwrap_or_default();
            let Some(whom) = peers.others().find(|number| *number >= first) else {
                return NextPage::Over;
            };
            self.gateway = Some(whom);
            if peers.request(cx, whom, &PeerRequest::Page(self.page_request), &[], requester) {
                self.waits = true;
                return NextPage::Requested;
            }
            self.skip();
        }
    }

    /// A peer has replied; `None`: it has not.
    pub fn answered(&mut self, answer: Option<&[u8]>) -> Option<NextPage> {
        self.waits = false;
        let page = answer.and_then(Page::decode);
        if page.is_none() {
            self.skip();
        }
        page.map(|page| self.page(page))
    }

    fn page(&mut self, page: Page) -> NextPage {
        let gateway = self.gateway;
        match page.next {
            Some(next) => self.page_request.from = next,
            None => self.goes_on(),
        }
        NextPage::Page(gateway, page)
    }

    /// Goes on to the next gateway.
    fn goes_on(&mut self) {
        self.page_request.from = 0;
        self.gateway = Some(self.gateway.map_or(0, |gateway| gateway + 1));
    }

    fn skip(&mut self) {
        self.unanswered += 1;
        self.goes_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_turn_it_is() {
        let mut pages = PageCursor::new(7, PageKind::List);
        let page = |next| Page { next, body: b"1".to_vec() };
        let at = |pages: &PageCursor| (pages.gateway, pages.page_request.from);
        assert!(matches!(pages.page(page(Some(32))), NextPage::Page(None, _)));
        assert_eq!(at(&pages), (None, 32));
        assert!(matches!(pages.page(page(None)), NextPage::Page(None, _)));
        assert_eq!(at(&pages), (Some(0), 0));
        let answer = page(Some(7)).encode();
        assert!(matches!(pages.answered(Some(&answer)), Some(NextPage::Page(Some(0), _))));
        assert_eq!(at(&pages), (Some(0), 7));
        // It says no more of a sudden, and the next one nonsense.
        assert!(pages.answered(None).is_none() && pages.answered(Some(b"x")).is_none());
        assert_eq!((at(&pages), pages.unanswered), ((Some(2), 0), 2));
        assert!(matches!(
            pages.answered(Some(&page(None).encode())),
            Some(NextPage::Page(Some(2), _))
        ));
        assert_eq!((at(&pages), pages.unanswered), ((Some(3), 0), 2));
    }
}
