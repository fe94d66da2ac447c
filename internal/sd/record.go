package sd

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxFieldName is the longest field name that journald keeps.
const maxFieldName = 64

// records recycles the buffers of Handle.
var records = sync.Pool{New: func() any { return new(record) }}

// record is one journal record while it is put together.
type record struct {
	fields []byte // the journal's native format
	text   []byte // the message and what is shown behind it
}

// attr adds an attribute as a field and to the text. prefix is the dotted
// path of the groups around it.
func (r *record) attr(prefix string, a slog.Attr) {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range value.Group() {
			r.attr(prefix, inner)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	text := valueText(value)
	if prefix == "" && a.Key == MessageIDKey {
		r.field("MESSAGE_ID", text)
		return
	}
	r.field(fieldName(prefix+a.Key), text)
	if other := synonym(a.Key); other != "" && prefix == "" {
		r.field(other, text)
	}
	r.text = append(r.text, ' ')
	r.text = append(r.text, prefix...)
	r.text = append(r.text, a.Key...)
	r.text = append(r.text, '=')
	if strings.ContainsAny(text, " \t\n\r\"=") || text == "" {
		r.text = strconv.AppendQuote(r.text, text)
	} else {
		r.text = append(r.text, text...)
	}
}

// synonym is the field by which every record that concerns another member is
// found, however its attribute is called; "" for none.
func synonym(key string) string {
	switch key {
	case "remote-peer-id", "remote-member-id", "follower-peer-id", "peer-id":
		return "PEER"
	case "local-member-id":
		return "MEMBER_ID"
	}
	return ""
}

// has says whether there is a field already.
func (r *record) has(name string) bool {
	return bytes.HasPrefix(r.fields, []byte(name+"=")) || bytes.Contains(r.fields, []byte("\n"+name+"="))
}

// field adds one field. A value with a newline goes with its length in front.
func (r *record) field(name, value string) {
	r.fields = append(r.fields, name...)
	if strings.IndexByte(value, '\n') < 0 {
		r.fields = append(r.fields, '=')
	} else {
		r.fields = append(r.fields, '\n')
		r.fields = binary.LittleEndian.AppendUint64(r.fields, uint64(len(value)))
	}
	r.fields = append(r.fields, value...)
	r.fields = append(r.fields, '\n')
}

// fieldName makes a field name that journald keeps: upper case letters,
// digits and underscores, no underscore or digit in front, and none of the
// names that this handler or journald gives a meaning to.
func fieldName(key string) string {
	name := []byte(strings.ToUpper(key))
	for i, c := range name {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			name[i] = '_'
		}
	}
	text := strings.TrimLeft(string(name), "_")
	if text == "" || (text[0] >= '0' && text[0] <= '9') || reserved(text) {
		text = "KVD_" + text
	}
	return text[:min(len(text), maxFieldName)]
}

// reserved lists the field names whose meaning is not ours to give.
func reserved(name string) bool {
	switch name {
	case "MESSAGE", "MESSAGE_ID", "PRIORITY", "ERRNO", "DOCUMENTATION", "TID",
		"UNIT", "USER_UNIT", "INVOCATION_ID", "USER_INVOCATION_ID":
		return true
	}
	return strings.HasPrefix(name, "SYSLOG_") || strings.HasPrefix(name, "CODE_") ||
		strings.HasPrefix(name, "OBJECT_") || strings.HasPrefix(name, "COREDUMP_")
}

// valueText writes a value as a person would: durations with their unit,
// times in RFC 3339.
func valueText(value slog.Value) string {
	switch value.Kind() {
	case slog.KindTime:
		return value.Time().Format(time.RFC3339Nano)
	case slog.KindAny:
		if err, ok := value.Any().(error); ok {
			return err.Error()
		}
	}
	return value.String()
}
