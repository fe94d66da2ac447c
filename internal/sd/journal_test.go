package sd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// parse reads journald's native format.
func parse(t *testing.T, data string) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for data != "" {
		end := strings.IndexByte(data, '\n')
		if end < 0 {
			t.Fatalf("no end of line in %q", data)
		}
		name, value, plain := strings.Cut(data[:end], "=")
		data = data[end+1:]
		if !plain {
			size := binary.LittleEndian.Uint64([]byte(data[:8]))
			value, data = data[8:8+size], data[8+size+1:]
		}
		if _, twice := fields[name]; twice {
			t.Errorf("field %s twice", name)
		}
		fields[name] = value
	}
	return fields
}

func journal(t *testing.T) (*net.UnixConn, *Journal) {
	t.Helper()
	conn, path := datagrams(t)
	j, err := NewJournal(path, slog.LevelDebug)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return conn, j
}

func TestARecordBecomesFieldsOfTheJournal(t *testing.T) {
	conn, j := journal(t)
	log := slog.New(j).With("member", "8e9e05c52164694d").WithGroup("raft").With("term", 7)
	log.Warn("lost the leader", MessageIDKey, "kept", "waited", 1500*time.Millisecond,
		"error", errors.New("two\nlines"), slog.Group("peer", "url", "http://a b"), "2nd", true, "_x", "")
	got := parse(t, receive(t, conn))
	want := map[string]string{
		"PRIORITY":          "4",
		"SYSLOG_IDENTIFIER": "kvd",
		"MEMBER":            "8e9e05c52164694d",
		"RAFT_TERM":         "7",
		"RAFT_MESSAGE_ID":   "kept",
		"RAFT_WAITED":       "1.5s",
		"RAFT_ERROR":        "two\nlines",
		"RAFT_PEER_URL":     "http://a b",
		"RAFT_2ND":          "true",
		"RAFT__X":           "",
		"MESSAGE": `lost the leader member=8e9e05c52164694d raft.term=7 raft.message_id=kept raft.waited=1.5s ` +
			`raft.error="two\nlines" raft.peer.url="http://a b" raft.2nd=true raft._x=""`,
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
	if !strings.HasSuffix(got["CODE_FILE"], "journal_test.go") {
		t.Errorf("CODE_FILE is %q", got["CODE_FILE"])
	}
}

func TestMessageIDComesFromItsAttribute(t *testing.T) {
	conn, j := journal(t)
	slog.New(j).Info("ready", MessageIDKey, "39f53479d3a045ac8e11786248231fbf")
	got := parse(t, receive(t, conn))
	if got["MESSAGE_ID"] != "39f53479d3a045ac8e11786248231fbf" || got["MESSAGE"] != "ready" {
		t.Errorf("got %v", got)
	}
}

func TestEveryRecordSaysWhomItIsAbout(t *testing.T) {
	conn, j := journal(t)
	log := slog.New(j).With("remote-peer-id", "b")
	j.Describe(func(field func(name, value string)) {
		field("MEMBER_ID", "a")
		field("TERM", "7")
	})
	log.Info("peer became active", "term", 8)
	got := parse(t, receive(t, conn))
	for name, want := range map[string]string{
		"MEMBER_ID": "a", "TERM": "8", "PEER": "b", "REMOTE_PEER_ID": "b",
		"MESSAGE": "peer became active remote-peer-id=b term=8",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

func TestReservedAndOddNamesAreMoved(t *testing.T) {
	for key, want := range map[string]string{
		"message": "KVD_MESSAGE", "priority": "KVD_PRIORITY", "syslog_pid": "KVD_SYSLOG_PID",
		"9lives": "KVD_9LIVES", "__a-b.c": "A_B_C", "é": "KVD_",
		strings.Repeat("a", 80): strings.Repeat("A", 64),
	} {
		if got := fieldName(key); got != want {
			t.Errorf("%q becomes %q, want %q", key, got, want)
		}
	}
}

func TestLevelsBecomePriorities(t *testing.T) {
	conn, j := journal(t)
	for level, want := range map[slog.Level]string{
		slog.LevelDebug: "7", slog.LevelInfo: "6", slog.LevelInfo + 2: "5",
		slog.LevelWarn: "4", slog.LevelError: "3", slog.LevelError + 4: "2",
	} {
		slog.New(j).Log(t.Context(), level, "x")
		if got := parse(t, receive(t, conn))["PRIORITY"]; got != want {
			t.Errorf("%v has priority %s, want %s", level, got, want)
		}
	}
}

func TestTheLevelMayChangeWhileRunning(t *testing.T) {
	_, path := datagrams(t)
	var level slog.LevelVar
	j, err := NewJournal(path, &level)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	log := slog.New(j).With("a", 1)
	if log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("debug at level info")
	}
	level.Set(slog.LevelDebug)
	if !log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("no debug at level debug")
	}
}

func TestALargeRecordGoesThroughASealedFile(t *testing.T) {
	conn, j := journal(t)
	large := strings.Repeat("0123456789", 1<<20)
	r := slog.NewRecord(time.Now(), slog.LevelInfo, "large", 0)
	r.Add("value", large)
	if err := j.Handle(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, 128)
	n, oobn, _, _, err := conn.ReadMsgUnix(make([]byte, 16), oob)
	if err != nil || n != 0 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "memfd")
	defer file.Close()
	if seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
		t.Errorf("seals %x, %v", seals, err)
	}
	data, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	if parse(t, string(data))["VALUE"] != large {
		t.Error("the value did not arrive whole")
	}
}

func TestAJournalThatDoesNotReadCostsRecordsNotTime(t *testing.T) {
	conn, j := journal(t)
	log := slog.New(j)
	lost := 0
	start := time.Now()
	for i := 0; lost == 0; i++ {
		if i > 100000 {
			t.Fatal("the socket takes everything")
		}
		r := slog.NewRecord(time.Now(), slog.LevelInfo, fmt.Sprint("filling ", i), 0)
		if err := log.Handler().Handle(t.Context(), r); err != nil {
			lost++
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("waited %v", took)
	}
	receive(t, conn)
	log.Info("after")
	for {
		got := parse(t, receive(t, conn))
		if got["MESSAGE"] == "after" {
			if got["KVD_DROPPED"] != "1" {
				t.Errorf("KVD_DROPPED is %q", got["KVD_DROPPED"])
			}
			return
		}
	}
}

func TestAJournalThatRestartsIsFoundAgain(t *testing.T) {
	conn, j := journal(t)
	path := conn.LocalAddr().String()
	conn.Close()
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	again, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	slog.New(j).Info("here again")
	if got := parse(t, receive(t, again)); got["MESSAGE"] != "here again" {
		t.Errorf("got %v", got)
	}
}

func TestStandardErrorOfTheJournalIsRecognized(t *testing.T) {
	var stat unix.Stat_t
	if err := unix.Fstat(2, &stat); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", stat.Dev, stat.Ino))
	if !UnderJournal() {
		t.Error("not recognized")
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", stat.Dev, stat.Ino+1))
	if UnderJournal() {
		t.Error("another stream was taken for ours")
	}
}
