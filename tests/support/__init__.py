"""What tests share: real servers of both kinds, a raw client, histories."""
