package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// value is an option's place in a Config and the way it is written. Texts are
// read as etcd reads its flags, and a little more widely.
type value interface {
	set(text string) error
	text() string // as set would read it
	want() string // what may be written, for people
	// toml makes the text of what a TOML file holds; false if that is of the
	// wrong type.
	toml(v any) (string, bool)
}

// The errors that etcd's flags answer.
var (
	errParse = errors.New("parse error")
	errRange = errors.New("value out of range")
)

// numberError is how Go's flag package words a number that is none.
func numberError(err error) error {
	if errors.Is(err, strconv.ErrRange) {
		return errRange
	}
	return errParse
}

// tomlString takes strings alone.
func tomlString(v any) (string, bool) {
	s, ok := v.(string)
	return s, ok
}

// tomlNumber takes integers alone.
func tomlNumber(v any) (string, bool) {
	n, ok := v.(int64)
	return strconv.FormatInt(n, 10), ok
}

type boolean struct{ to *bool }

func (b boolean) set(s string) (err error) {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return errParse
	}
	*b.to = v
	return nil
}
func (b boolean) text() string { return strconv.FormatBool(*b.to) }
func (boolean) want() string   { return "true or false" }
func (boolean) toml(v any) (string, bool) {
	is, ok := v.(bool)
	return strconv.FormatBool(is), ok
}

// number is an integer of the size of its type. The command line may also
// hold it in Go's other bases.
type number[T int | uint | uint32 | uint64] struct {
	to   *T
	bits int // 0: the size of int
}

func (n number[T]) set(s string) error {
	var zero T
	if zero-1 < 0 {
		v, err := strconv.ParseInt(s, 0, n.bits)
		if err != nil {
			return numberError(err)
		}
		*n.to = T(v)
		return nil
	}
	v, err := strconv.ParseUint(s, 0, n.bits)
	if err != nil {
		return numberError(err)
	}
	*n.to = T(v)
	return nil
}
func (n number[T]) text() string            { return fmt.Sprint(*n.to) }
func (number[T]) want() string              { return "integer" }
func (number[T]) toml(v any) (string, bool) { return tomlNumber(v) }

// size is a number of bytes, with or without a unit.
type size struct {
	to     *int64
	signed bool
}

// units of sizes, longest first where one ends like another.
func units() []struct {
	name  string
	bytes float64
} {
	return []struct {
		name  string
		bytes float64
	}{
		{"KiB", 1 << 10},
		{"MiB", 1 << 20},
		{"GiB", 1 << 30},
		{"TiB", 1 << 40},
		{"KB", 1e3},
		{"kB", 1e3},
		{"MB", 1e6},
		{"GB", 1e9},
		{"TB", 1e12},
		{"B", 1},
	}
}

func (z size) set(s string) error {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil && errors.Is(err, strconv.ErrRange) {
		return errRange
	}
	if err != nil {
		if n, err = withUnit(s); err != nil {
			return err
		}
	}
	if n < 0 && !z.signed {
		return errParse
	}
	*z.to = n
	return nil
}

func withUnit(s string) (int64, error) {
	for _, unit := range units() {
		digits, ok := strings.CutSuffix(s, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || math.IsNaN(n) {
			return 0, errParse
		}
		if n *= unit.bytes; math.Abs(n) >= math.MaxInt64 {
			return 0, errRange
		}
		return int64(n), nil
	}
	return 0, errParse
}
func (z size) text() string { return strconv.FormatInt(*z.to, 10) }
func (size) want() string   { return `bytes, or a size such as "2GiB"` }
func (size) toml(v any) (string, bool) {
	if s, ok := v.(string); ok {
		return s, true
	}
	return tomlNumber(v)
}

type duration struct{ to *time.Duration }

func (d duration) set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil {
		return errParse
	}
	*d.to = v
	return nil
}
func (d duration) text() string { return durationText(*d.to) }
func (duration) want() string   { return `duration such as "100ms"` }
func (duration) toml(v any) (string, bool) {
	if n, ok := v.(int64); ok && n == 0 { // the one number that needs no unit
		return "0", true
	}
	return tomlString(v)
}

// durationText writes a duration without the zeros that Go appends.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// millis is a duration that etcd writes as a bare number of milliseconds.
type millis struct{ to *time.Duration }

func (m millis) set(s string) error {
	n, err := strconv.ParseUint(s, 0, 64)
	if err == nil && n > math.MaxInt64/uint64(time.Millisecond) {
		return errRange
	}
	if err == nil {
		*m.to = time.Duration(n) * time.Millisecond
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return errParse
	}
	if d < 0 || d%time.Millisecond != 0 {
		return fmt.Errorf("want whole milliseconds: %w", errParse)
	}
	*m.to = d
	return nil
}
func (m millis) text() string            { return strconv.FormatInt(m.to.Milliseconds(), 10) }
func (millis) want() string              { return `milliseconds, or duration such as "100ms"` }
func (millis) toml(v any) (string, bool) { return size{}.toml(v) }

// seconds is a duration that etcd writes as a bare number of seconds.
type seconds struct{ to *time.Duration }

func (c seconds) set(s string) error {
	n, err := strconv.ParseUint(s, 0, 64)
	if err == nil && n > math.MaxInt64/uint64(time.Second) {
		return errRange
	}
	if err == nil {
		*c.to = time.Duration(n) * time.Second
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d%time.Second != 0 {
		return errParse
	}
	*c.to = d
	return nil
}
func (c seconds) text() string            { return strconv.FormatInt(int64(c.to.Seconds()), 10) }
func (seconds) want() string              { return `seconds, or duration such as "5m"` }
func (seconds) toml(v any) (string, bool) { return size{}.toml(v) }

type text struct{ to *string }

func (t text) set(s string) error      { *t.to = s; return nil }
func (t text) text() string            { return *t.to }
func (text) want() string              { return "string" }
func (text) toml(v any) (string, bool) { return tomlString(v) }

// choice is one of a few words.
type choice struct {
	to    *string
	words []string
	other string // etcd's words for another, with %q; "": none
}

func (c choice) set(s string) error {
	for _, word := range c.words {
		if s == word {
			*c.to = s
			return nil
		}
	}
	err := errors.New("invalid value")
	if c.other != "" {
		err = fmt.Errorf("invalid value: "+c.other, s)
	}
	return fmt.Errorf("%w; want %s", err, c.want())
}
func (c choice) text() string            { return *c.to }
func (c choice) want() string            { return strings.Join(c.words, " or ") }
func (choice) toml(v any) (string, bool) { return tomlString(v) }
