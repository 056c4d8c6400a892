"""What pytest sees: options, cases, the order in which processes climb them, and what is told of
them in text, json and a page.
"""
