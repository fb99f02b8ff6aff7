"""Where transactions come from: frames of messages in, matched transactions in commit order out."""
