"""Rules of the life of devices: which of them are suspended, retired or deleted, and when, without anybody asking."""
