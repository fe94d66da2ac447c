package invariant

import "testing"

func TestCheckPanicsOnlyWhenOn(t *testing.T) {
	defer func() {
		if got := recover(); (got != nil) != On {
			t.Errorf("On = %v, but a broken invariant gave %v", On, got)
		} else if On && got != "invariant: 1 is not 2" {
			t.Errorf("panic text %v", got)
		}
	}()
	Check(true, "never shown")
	Check(false, "%d is not %d", 1, 2)
}
