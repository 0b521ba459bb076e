//! Which bytes may stand where. One look for each byte, for heads are read all day.

/// Names of fields, in lower case (RFC 9113, section 8.2.1; RFC 9110, section 5.6.2).
pub(super) const NAME: u8 = 1;
/// Values: no control characters but tabs (RFC 9110, section 5.5).
pub(super) const VALUE: u8 = 2;
/// Tokens (RFC 9110, section 5.6.2).
pub(super) const TOKEN: u8 = 4;
/// A path with its query: what would end a request line, or begin something else in it, has no place here. Bytes
/// beyond ASCII have, as over HTTP/1.1: they end nothing.
pub(super) const PATH: u8 = 8;
/// A host and perhaps a port, without user information (RFC 9113, section 8.3.1).
pub(super) const AUTHORITY: u8 = 16;

/// Are all of them of this class?
#[inline]
pub(super) fn all(text: &[u8], class: u8) -> bool {
    text.iter().all(|&byte| CLASSES[usize::from(byte)] & class != 0)
}

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let mark = matches!(byte, b'-' | b'_' | b'.' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'^' | b'`' | b'|' | b'~');
        let small = byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if small || mark {
            classes[at] |= NAME;
        }
        if small || mark || byte.is_ascii_uppercase() {
            classes[at] |= TOKEN;
        }
        if byte == b'\t' || (byte >= b' ' && byte != 0x7F) {
            classes[at] |= VALUE;
        }
        if byte > b' ' && byte != 0x7F && byte != b'#' {
            classes[at] |= PATH;
        }
        if byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b':' | b'[' | b']'
            )
        {
            classes[at] |= AUTHORITY;
        }
        at += 1;
    }
    classes
};
