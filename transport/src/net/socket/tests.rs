use super::*;

/// A stream that answers each poll in one way.
struct Says(fn(usize) -> Poll<io::Result<usize>>);

impl ByteStream for Says {
    fn poll_read(&self, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        (self.0)(buf.len())
    }

    fn poll_write(&self, _: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        (self.0)(parts.iter().map(|part| part.len()).sum())
    }

    fn shutdown(&self) {}
}

/// How a read and a write of ten bytes end, with a deadline that is soon or far.
fn ends(says: fn(usize) -> Poll<io::Result<usize>>, limit: Duration) -> [Option<String>; 2] {
    let socket = Socket::Own(Box::new(Says(says)));
    let deadline = Instant::now() + limit;
    let read = socket.read_exact_by(&mut [0; 10], deadline);
    let written = socket.write_all_by(&[0; 10], deadline);
    [read, written].map(|end| end.err().map(|error| error.to_string()))
}

#[test]
fn a_stream_of_ones_own_is_waited_for_until_the_deadline_and_no_longer() {
    let far = Duration::from_secs(600);
    assert_eq!(
        ends(|_| Poll::Ready(Ok(3)), far)[0],
        Some("the transport breaks its contract: it moved 3 of 1 bytes".into())
    );
    assert_eq!(ends(|most| Poll::Ready(Ok(most.min(3))), far), [None, None]);
    for end in ends(|_| Poll::Pending, Duration::from_millis(20)) {
        assert!(end.unwrap().contains("in time"));
    }
    // An error is told at once, whatever it is called.
    for end in ends(|_| Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "by itself"))), far) {
        assert_eq!(end.unwrap(), "by itself");
    }
    for end in ends(|most| Poll::Ready(Ok(most + 1)), far) {
        assert!(end.unwrap().contains("breaks its contract"));
    }
    let [read, written] = ends(|_| Poll::Ready(Ok(0)), far);
    assert!(read.unwrap().contains("closed") && written.unwrap().contains("took none"));
}
