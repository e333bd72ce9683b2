//! Where a WebSocket handshake carries a token: the query's `token`, or one of the offered
//! subprotocols, since browsers can set no other header. Pure.

/// The subprotocol that is accepted where it is offered; it stands beside the token, which never is.
pub const SUBPROTOCOL: &str = "touchline";

/// What an offered subprotocol begins with that is a token and no protocol.
pub const BEARER: &str = "touchline.bearer.";

/// What a handshake offers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// The token.
    pub token: Option<String>,
    /// The subprotocol to echo.
    pub accept: Option<&'static str>,
}

impl Offer {
    /// Reads the query and the values of `Sec-WebSocket-Protocol`. The header wins: what is in a URL
    /// may come from anywhere.
    pub fn read<'a>(query: Option<&str>, protocols: impl IntoIterator<Item = &'a str>) -> Self {
        let mut offer = Self::default();
        let protocols = protocols.into_iter().flat_map(|value| value.split(','));
        for protocol in protocols.map(str::trim) {
            if protocol == SUBPROTOCOL {
                offer.accept = Some(SUBPROTOCOL);
            } else if let Some(token) = protocol.strip_prefix(BEARER) {
                offer.token.get_or_insert_with(|| token.to_owned());
            }
        }
        let from_query = || {
            let pairs = query.unwrap_or_default().split('&');
            let mut tokens = pairs.filter_map(|pair| pair.strip_prefix("token="));
            // A token consists of characters that a URL needs not escape.
            tokens.next().map(str::to_owned)
        };
        if offer.token.is_none() {
            offer.token = from_query();
        }
        offer
    }
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has_token = self.token.is_some();
        let mut debug = formatter.debug_struct("Offer");
        debug
            .field("has_token", &has_token)
            .field("accept", &self.accept)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_the_query_and_in_the_header_which_wins() {
        let read = |query, protocols: &[&'static str]| {
            let offer = Offer::read(query, protocols.iter().copied());
            (offer.token, offer.accept)
        };
        let token = |token: &str| Some(token.to_owned());
        assert_eq!(read(None, &[]), (None, None));
        assert_eq!(read(Some("a=b&token=t.o.k"), &[]), (token("t.o.k"), None));
        assert_eq!(read(Some("mytoken=x"), &[]), (None, None));
        assert_eq!(
            read(None, &["touchline, touchline.bearer.a.b.c"]),
            (token("a.b.c"), Some("touchline"))
        );
        assert_eq!(
            read(Some("token=x"), &["touchline.bearer.a.b.c", "touchline"]),
            (token("a.b.c"), Some("touchline"))
        );
        assert_eq!(read(None, &["graphql-ws"]), (None, None));
    }
}
