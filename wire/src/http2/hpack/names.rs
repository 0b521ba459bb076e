//! Names that are known without looking at their letters, and the static table (RFC 7541, appendix A).

/// What a field is called, as far as that matters to HTTP. A name of the static table has the first index
/// there that has it; others come behind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Name(u8);

macro_rules! names {
    ($($name:ident = $index:literal $bytes:literal,)+) => {
        impl Name {
            /// Any other name.
            pub const OTHER: Self = Self(0);
            $(
                #[doc = concat!("Entry ", stringify!($index), " of the static table.")]
                pub const $name: Self = Self($index);
            )+

            /// Tells a name apart.
            pub fn of(name: &[u8]) -> Self {
                match name {
                    $($bytes => Self::$name,)+
                    _ => Self::OTHER,
                }
            }
        }

        #[cfg(test)]
        const ALL: &[(u8, &[u8])] = &[$(($index, $bytes),)+];
    };
}

names! {
    AUTHORITY = 1 b":authority",
    METHOD = 2 b":method",
    PATH = 4 b":path",
    SCHEME = 6 b":scheme",
    STATUS = 8 b":status",
    ACCEPT_CHARSET = 15 b"accept-charset",
    ACCEPT_ENCODING = 16 b"accept-encoding",
    ACCEPT_LANGUAGE = 17 b"accept-language",
    ACCEPT_RANGES = 18 b"accept-ranges",
    ACCEPT = 19 b"accept",
    ACCESS_CONTROL_ALLOW_ORIGIN = 20 b"access-control-allow-origin",
    AGE = 21 b"age",
    ALLOW = 22 b"allow",
    AUTHORIZATION = 23 b"authorization",
    CACHE_CONTROL = 24 b"cache-control",
    CONTENT_DISPOSITION = 25 b"content-disposition",
    CONTENT_ENCODING = 26 b"content-encoding",
    CONTENT_LANGUAGE = 27 b"content-language",
    CONTENT_LENGTH = 28 b"content-length",
    CONTENT_LOCATION = 29 b"content-location",
    CONTENT_RANGE = 30 b"content-range",
    CONTENT_TYPE = 31 b"content-type",
    COOKIE = 32 b"cookie",
    DATE = 33 b"date",
    ETAG = 34 b"etag",
    EXPECT = 35 b"expect",
    EXPIRES = 36 b"expires",
    FROM = 37 b"from",
    HOST = 38 b"host",
    IF_MATCH = 39 b"if-match",
    IF_MODIFIED_SINCE = 40 b"if-modified-since",
    IF_NONE_MATCH = 41 b"if-none-match",
    IF_RANGE = 42 b"if-range",
    IF_UNMODIFIED_SINCE = 43 b"if-unmodified-since",
    LAST_MODIFIED = 44 b"last-modified",
    LINK = 45 b"link",
    LOCATION = 46 b"location",
    MAX_FORWARDS = 47 b"max-forwards",
    PROXY_AUTHENTICATE = 48 b"proxy-authenticate",
    PROXY_AUTHORIZATION = 49 b"proxy-authorization",
    RANGE = 50 b"range",
    REFERER = 51 b"referer",
    REFRESH = 52 b"refresh",
    RETRY_AFTER = 53 b"retry-after",
    SERVER = 54 b"server",
    SET_COOKIE = 55 b"set-cookie",
    STRICT_TRANSPORT_SECURITY = 56 b"strict-transport-security",
    TRANSFER_ENCODING = 57 b"transfer-encoding",
    USER_AGENT = 58 b"user-agent",
    VARY = 59 b"vary",
    VIA = 60 b"via",
    WWW_AUTHENTICATE = 61 b"www-authenticate",
    CONNECTION = 62 b"connection",
    KEEP_ALIVE = 63 b"keep-alive",
    PROXY_CONNECTION = 64 b"proxy-connection",
    TE = 65 b"te",
    UPGRADE = 66 b"upgrade",
    TRAILER = 67 b"trailer",
    HTTP2_SETTINGS = 68 b"http2-settings",
    PROTOCOL = 69 b":protocol",
    GRPC_STATUS = 70 b"grpc-status",
    GRPC_TIMEOUT = 71 b"grpc-timeout",
    TRACEPARENT = 72 b"traceparent",
    TRACESTATE = 73 b"tracestate",
    X_FORWARDED_FOR = 74 b"x-forwarded-for",
    X_FORWARDED_HOST = 75 b"x-forwarded-host",
    X_FORWARDED_PROTO = 76 b"x-forwarded-proto",
    FORWARDED = 77 b"forwarded",
    GRPC_PREVIOUS_ATTEMPTS = 78 b"grpc-previous-rpc-attempts",
    GRPC_PUSHBACK = 79 b"grpc-retry-pushback-ms",
}

impl Name {
    /// Is it a pseudo-header field (RFC 9113, section 8.3)?
    pub fn is_pseudo(self) -> bool {
        matches!(self, Self::AUTHORITY | Self::METHOD | Self::PATH | Self::SCHEME | Self::STATUS | Self::PROTOCOL)
    }

    /// Its first index in the static table.
    pub(super) fn index(self) -> Option<usize> {
        (1..=LEN).contains(&usize::from(self.0)).then_some(usize::from(self.0))
    }
}

/// How many entries there are.
pub(super) const LEN: usize = ENTRIES.len();

/// An entry. Indices begin at 1.
#[inline]
pub(super) fn entry(index: usize) -> Option<&'static (&'static str, &'static str)> {
    ENTRIES.get(index.wrapping_sub(1))
}

/// The name of an entry, told apart.
#[inline]
pub(super) fn name(index: usize) -> Name {
    Name(FIRST[index])
}

/// The first entry with the name of this one: entries of the same name stand together.
const FIRST: [u8; LEN + 1] = {
    let mut first = [0; LEN + 1];
    let mut index = 1;
    while index <= LEN {
        let same = index > 1 && equal(ENTRIES[index - 1].0, ENTRIES[index - 2].0);
        first[index] = if same { first[index - 1] } else { index as u8 };
        index += 1;
    }
    first
};

/// The entry that has this name and value, if there is a value: a name without one is there for its name.
pub(super) fn find(name: Name, value: &[u8]) -> Option<usize> {
    let first = name.index()?;
    let mut same = (first..=LEN).take_while(|&index| usize::from(FIRST[index]) == first);
    same.find(|&index| !value.is_empty() && ENTRIES[index - 1].1.as_bytes() == value)
}

const fn equal(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

#[rustfmt::skip]
const ENTRIES: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_first_of_their_entries() {
        for (index, bytes) in ALL {
            assert_eq!(Name::of(bytes), Name(*index));
            if let Some((name, _)) = entry(usize::from(*index)) {
                assert_eq!(name.as_bytes(), *bytes);
            }
        }
        for index in 1..=LEN {
            assert_eq!(name(index), Name::of(entry(index).unwrap().0.as_bytes()), "{index}");
        }
        assert_eq!(Name::of(b"x-other"), Name::OTHER);
        assert!(entry(0).is_none() && entry(62).is_none());
    }

    #[test]
    fn entries_are_found_by_value() {
        assert_eq!(find(Name::METHOD, b"POST"), Some(3));
        assert_eq!(find(Name::STATUS, b"500"), Some(14));
        assert_eq!(find(Name::STATUS, b"201"), None);
        assert_eq!(find(Name::AUTHORITY, b""), None);
        assert_eq!(find(Name::TE, b"trailers"), None);
    }
}
