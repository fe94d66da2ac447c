package offline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// texter writes messages on one line, in the order of their fields.
type texter struct {
	longest int // bytes of a key or value that are shown
}

// secret names fields that nobody should read in a terminal or a ticket.
var secret = []protoreflect.Name{"password", "hashed_password", "hashedPassword", "simple_token"}

// requestName is the member of a command that is set: put, txn, lease_grant, …
func requestName(m protoreflect.Message) string {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() == protoreflect.MessageKind && f.Name() != "header" && m.Has(f) {
			return string(f.Name())
		}
	}
	return ""
}

func (t texter) message(m protoreflect.Message) string {
	fields := m.Descriptor().Fields()
	var words []string
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		value := m.Get(f)
		switch {
		case f.IsList():
			list := value.List()
			all := make([]string, 0, list.Len())
			for j := range list.Len() {
				all = append(all, t.value(f, list.Get(j)))
			}
			words = append(words, fmt.Sprintf("%s:[%s]", f.Name(), strings.Join(all, " ")))
		case slices.Contains(secret, f.Name()):
			words = append(words, fmt.Sprintf("%s:<not shown>", f.Name()))
		default:
			words = append(words, fmt.Sprintf("%s:%s", f.Name(), t.value(f, value)))
		}
	}
	return strings.Join(words, " ")
}

func (t texter) value(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return "{" + t.message(v.Message()) + "}"
	case protoreflect.BytesKind:
		return t.quote(v.Bytes())
	case protoreflect.StringKind:
		return t.quote([]byte(v.String()))
	case protoreflect.EnumKind:
		if name := f.Enum().Values().ByNumber(v.Enum()); name != nil {
			return string(name.Name())
		}
		return strconv.Itoa(int(v.Enum()))
	}
	return fmt.Sprint(v.Interface())
}

// quote writes bytes as text where they are, and shortens what is long.
func (t texter) quote(b []byte) string {
	if len(b) <= t.longest {
		return strconv.Quote(string(b))
	}
	return fmt.Sprintf("%s…(%d bytes)", strconv.Quote(string(b[:t.longest])), len(b))
}
