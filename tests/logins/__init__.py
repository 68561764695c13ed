"""The campaign of logins: refreshes that are killed, unanswered, or without a database, and no login lost."""
