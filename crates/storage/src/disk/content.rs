//! What a file in memory holds, page by page: pages that nothing was written to take no memory,
//! since the log's segments are as long as they may become from their beginning.

const PAGE_BYTES: usize = 4096;

type Page = Box<[u8; PAGE_BYTES]>;

/// The bytes of a file. What lies in a page beyond the file's end is zero.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: usize,
    /// As many as the file is long; those that are `None` are zeros.
    pages: Vec<Option<Page>>,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Cuts the end off, or adds zeros.
    pub(super) fn resize(&mut self, len: usize) {
        self.pages.resize(len.div_ceil(PAGE_BYTES), None);
        if let Some(Some(last)) = self.pages.last_mut()
            && len < self.len
        {
            let end = (len - 1) % PAGE_BYTES + 1;
            last[end..].fill(0);
        }
        self.len = len;
    }

    /// Writes, and makes the file longer if it must.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if self.len < offset + bytes.len() {
            self.resize(offset + bytes.len());
        }
        for (at, range, piece) in pieces(offset, bytes.len()) {
            let page = self.pages[at].get_or_insert_with(|| Box::new([0; PAGE_BYTES]));
            page[range].copy_from_slice(&bytes[piece]);
        }
    }

    /// Reads as much as `buf` takes; `None` when the file ends before.
    pub(super) fn read(&self, offset: usize, buf: &mut [u8]) -> Option<()> {
        if offset.checked_add(buf.len())? > self.len {
            return None;
        }
        for (at, range, piece) in pieces(offset, buf.len()) {
            match &self.pages[at] {
                Some(page) => buf[piece].copy_from_slice(&page[range]),
                None => buf[piece].fill(0),
            }
        }
        Some(())
    }

    /// All bytes.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes).expect("a file is as long as it is");
        bytes
    }
}

type Range = std::ops::Range<usize>;

/// A stretch of a file as pages: which one, what of it, and what of the stretch that is.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, Range, Range)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (page, start) = ((offset + done) / PAGE_BYTES, (offset + done) % PAGE_BYTES);
        let count = (PAGE_BYTES - start).min(len - done);
        done += count;
        (count > 0).then(|| (page, start..start + count, done - count..done))
    })
}

#[cfg(test)]
mod tests {
    use atoll_base::Rng;

    use super::Content;

    #[test]
    fn a_content_in_pages_is_what_one_in_a_row_is() {
        let mut rng = Rng::new(11);
        let (mut paged, mut flat) = (Content::default(), Vec::new());
        for step in 0..2_000_u64 {
            let (offset, len) = (rng.below(30_000) as usize, rng.below(6_000) as usize);
            match rng.below(4) {
                0 => {
                    paged.resize(offset);
                    flat.resize(offset, 0);
                }
                1 => {
                    let bytes = vec![step as u8 | 1; len];
                    paged.write(offset, &bytes);
                    flat.resize(flat.len().max(offset + len), 0);
                    flat[offset..offset + len].copy_from_slice(&bytes);
                }
                _ => {
                    let mut found = vec![9; len];
                    let read = paged.read(offset, &mut found).map(|()| found);
                    let wanted = flat.get(offset..offset + len).map(<[u8]>::to_vec);
                    assert_eq!(read, wanted, "step {step}");
                }
            }
            assert_eq!(paged.len(), flat.len(), "step {step}");
        }
        assert_eq!(paged.to_vec(), flat);
        assert_eq!(paged.read(usize::MAX, &mut [0]), None);
    }
}
