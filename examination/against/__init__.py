"""How right comparisons with another commit are: false accusations, planted slow-downs, cost."""
