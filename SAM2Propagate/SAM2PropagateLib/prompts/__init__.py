"""What the user said: clicks, boxes, masks, absent marks, locks and ranges, kept in RAS."""
