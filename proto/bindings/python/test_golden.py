"""The bindings pass the golden bytes: run `python3 -m unittest` here, or `cargo test -p neuroshard-tests --test bindings`."""

import pathlib
import unittest

import neuroshard_wire as wire

GOLDEN = pathlib.Path(__file__).resolve().parents[3] / "tests" / "golden"

# What each line of a golden file is, by its name or the name's beginning. `None`: no encoding but a digest or a number.
TYPES = {
    "wire.txt": {
        "heartbeat": "Heartbeat",
        "beacon": "Beacon",
        "envelope": "Envelope",
        "manifest": "Manifest",
        "genesis": "Genesis",
        "params": "Params",
        "network id": "NetworkId",
    },
    "jobs.txt": {
        "job ": "Job",
        **dict.fromkeys(
            ("ready", "benchmark", "batch", "void", "step", "evaluation", "snapshot", "forward", "turn", "backward", "norms"),
            "Commitment",
        ),
        **dict.fromkeys(("missing", "damaged", "root", "disk", "store", "device"), "Fault"),
    },
    "surface.txt": {"config": "Config", "input ": "Input", "record ": "Record", "output ": "Output", "event": "Output"},
    "chain.txt": {
        **dict.fromkeys(
            "transfer|bond|unbond|rotate key|register node|revoke node|describe node|attest|commit random|reveal random"
            "|report equivocation|nominate|form quorum|end quorum|post stages|by a node".split("|"),
            "Transaction",
        ),
        "header": "Header",
        "block": "Block",
        "vote": "Vote",
        "nullification": "Certificate",
        "finalization": "Certificate",
        "proposal": "Proposal",
        "decided": "Decided",
        "blocks wanted": "BlocksWanted",
        "seats": "Seats",
        "light client's step": "Advance",
        "proof of an account": "AccountProof",
        "proof of a node": "NodeProof",
        "proof of a quorum": "QuorumProof",
        "proof of a stage": "StageProof",
        "quorum's name": "QuorumId",
        "acceptance": "Hash",
        "chunk": "Chunk",
        "steps wanted": "StepsWanted",
        "steps": "Steps",
        "state wanted": "StateWanted",
        "piece of the state": "StatePiece",
        "no piece of the state": "StatePiece",
        **dict.fromkeys(("block id", "seats' hash", "consent", "random commitment", "state root", "beacon"), "Hash"),
        "puzzle bits": None,
    },
    "quorums.txt": {
        "plan": "Plan",
        "terms": "Terms",
        **dict.fromkeys("ready|gather|go|forward|backward|done|void|lacks|here".split("|"), "QuorumMessage"),
        **dict.fromkeys("ask|offer|no offer|propose|accept|decline".split("|"), "FormingMessage"),
        **dict.fromkeys(("plan's name", "terms' name"), "QuorumId"),
        "what members sign": "Hash",
    },
}
# In jobs.txt two names stand twice: first among commitments, then among faults.
SECOND = {("jobs.txt", "step"): "Fault", ("jobs.txt", "job"): "Fault"}


def golden():
    """Each line of the golden files: its name, its type, its bytes."""
    for file, types in TYPES.items():
        seen = set()
        for line in (GOLDEN / file).read_text().splitlines():
            name, _, digits = line.rpartition(" = ")
            fitting = [begin for begin in types if name == begin or name.startswith(begin)]
            if name in seen or name == "job":
                kind = SECOND.get((file, name), types.get(name))
            else:
                if not fitting:
                    raise AssertionError(f"{file}: nobody says what type `{name}` is")
                kind = types[max(fitting, key=len)]
            seen.add(name)
            if kind is not None:
                yield f"{file}, {name}", kind, bytes.fromhex(digits)


class Golden(unittest.TestCase):
    def test_each_value_decodes_and_encodes_to_the_same_bytes(self):
        count = 0
        for name, kind, data in golden():
            with self.subTest(name):
                self.assertEqual(wire.encode(kind, wire.decode(kind, data)), data)
                count += 1
        self.assertGreater(count, 80)

    def test_nothing_may_be_missing_and_nothing_may_follow(self):
        for name, kind, data in golden():
            step = max(1, len(data) // 64)
            for wrong in [data[:cut] for cut in range(0, len(data), step)] + [data + b"\x00", data + data]:
                with self.subTest(name, bytes=len(wrong)):
                    self.assertRaises(wire.WireError, wire.decode, kind, wrong)

    def test_a_bent_bit_is_another_value_or_an_error(self):
        refused = 0
        for name, kind, data in golden():
            for place in range(0, len(data), max(1, len(data) // 64)):
                for bit in (1, 64, 128):
                    bent = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
                    with self.subTest(name, byte=place, bit=bit):
                        try:
                            value = wire.decode(kind, bent)
                        except wire.WireError:
                            refused += 1
                            continue
                        self.assertEqual(wire.encode(kind, value), bent)
                        self.assertNotEqual(value, wire.decode(kind, data))
        self.assertGreater(refused, 100)


class Values(unittest.TestCase):
    def test_a_struct_has_its_fields_and_a_frame_opens(self):
        frame = next(data for name, kind, data in golden() if kind == "Envelope")
        envelope, kind, heartbeat = wire.open_frame(frame)
        self.assertEqual((kind, heartbeat.time, heartbeat.step), ("Heartbeat", 123_456, 77))
        self.assertEqual((envelope.wire_version, len(envelope.signature)), (1, 64))

    def test_an_error_says_where_and_why(self):
        with self.assertRaises(wire.WireError) as caught:
            wire.decode(wire.BlocksWanted, bytes(32) + b"\xff" * 10)
        self.assertEqual(str(caught.exception), "BlocksWanted.from_ at byte 32: the integer has more than 64 bits")

    def test_a_lying_length_is_refused_before_anything_is_made(self):
        for lie in (b"\x81\x04", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01"):
            with self.assertRaisesRegex(wire.WireError, r"endorsements.*a length of \d+ where at most 512 is allowed"):
                wire.decode(wire.Certificate, b"\x01\x00\x00" + lie)
        with self.assertRaisesRegex(wire.WireError, "512 items do not fit in the 0 bytes"):
            wire.decode(wire.Certificate, b"\x01\x00\x00\x80\x04")

    def test_more_bytes_than_a_type_may_take_are_refused_unread(self):
        with self.assertRaisesRegex(wire.WireError, "129 bytes where at most 128 are allowed"):
            wire.decode(wire.Vote, bytes(129))

    def test_integers_have_one_encoding(self):
        self.assertEqual(wire.decode("Amount", b"\xff" * 9 + b"\x01"), 2**64 - 1)
        for wrong in (b"\x80\x00", b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01", b""):
            self.assertRaises(wire.WireError, wire.decode, "Amount", wrong)

    def test_signed_integers_go_to_both_ends(self):
        for value in (0, -1, 1, 2**63 - 1, -(2**63)):
            loss = wire.Commitment.Evaluation(step=1, loss_micro=value, tokens=1)
            self.assertEqual(wire.decode(wire.Commitment, wire.encode(wire.Commitment, loss)), loss)

    def test_a_value_of_another_type_has_no_encoding(self):
        self.assertRaises(wire.WireError, wire.encode, "Amount", -1)
        self.assertRaises(wire.WireError, wire.encode, "Amount", 1 << 64)
        self.assertRaises(wire.WireError, wire.encode, "Amount", True)
        self.assertRaises(wire.WireError, wire.encode, "Hash", bytes(31))
        self.assertRaises(wire.WireError, wire.encode, wire.Action, wire.Author.Node(bytes(32), 1))
        self.assertRaises(wire.WireError, wire.encode, wire.Fault, wire.Fault.BadJob("x" * 5000))
        self.assertRaises(wire.WireError, wire.encode, wire.Fault, wire.Fault.BadJob("\ud800"))

    def test_what_is_no_type_is_the_caller_s_mistake(self):
        for wrong in ("Vote ", int, wire.JournalFact.Chunk, None):
            self.assertRaises(TypeError, wire.decode, wrong, b"")


if __name__ == "__main__":
    unittest.main()
