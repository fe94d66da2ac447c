// Package robust ends kvd in every bad way — kill -9 under load, a full disk,
// broken files, a second process — and checks what must hold after: nothing
// acknowledged is lost, nothing else is half there, and what cannot be served
// is refused in words.
//
// It holds tests only. KVD_CRASH_ROUNDS says how often the crash test kills,
// KVD_CRASH_SEED repeats its choices, KVD_TEST_KVD names the program to test.
package robust
